{{/* How the leader's mpirun finds the other machines: by what Open MPI reads from the environment. */}}
{{- define "nvlm.mpiEnv" -}}
- {name: OMPI_MCA_orte_default_hostfile, value: /run/mpi/hosts}
# Its own files must not lie on a network file system.
- {name: OMPI_MCA_orte_tmpdir_base, value: /tmp}
- {name: OMPI_MCA_orte_keep_fqdn_hostnames, value: "1"}
- {name: OMPI_MCA_plm_rsh_agent, value: ssh}
- name: OMPI_MCA_plm_rsh_args
  value: >-
    -p {{ .Values.multiNode.sshPort }} -i /etc/nvlm-trt/ssh/id -o BatchMode=yes -o LogLevel=ERROR
    -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
{{- end }}

{{- define "nvlm.mpiMounts" -}}
- {name: deployment, mountPath: /run/nvlm-trt}
- {name: mpi, mountPath: /etc/nvlm-trt/mpi, readOnly: true}
- {name: ssh, mountPath: /etc/nvlm-trt/ssh, readOnly: true}
{{- end }}

{{- define "nvlm.mpiVolumes" -}}
- {name: mpi, configMap: {name: {{ include "nvlm.fullname" . }}-mpi}}
- name: ssh
  secret:
    secretName: {{ .Values.multiNode.sshSecret }}
    # Not the user's own file but the group's: so OpenSSH takes a key that others than its owner can read.
    defaultMode: 0440
    items:
      - {key: id, path: id}
      - {key: id.pub, path: authorized_keys}
{{- end }}

{{/* A pod whose ranks the leader starts: an SSH server that hands on the pod's environment. */}}
{{- define "nvlm.worker" -}}
metadata:
  labels:
    {{- include "nvlm.labels" . | nindent 4 }}
    app.kubernetes.io/component: worker
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "nvlm.pod" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ add .Values.serve.preStopSeconds .Values.serve.drainSeconds .Values.serve.stopSeconds }}
  containers:
    - name: worker
      {{- include "nvlm.container" . | nindent 6 }}
      command: [bash, /etc/nvlm-trt/mpi/sshd.sh]
      env:
        - {name: HOME, value: /tmp}
        # As the leader has it: without this choice MPI_Init is known to fail in some containers.
        - {name: PMIX_MCA_gds, value: hash}
        {{- with .Values.serve.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: ssh, containerPort: {{ .Values.multiNode.sshPort }}}
      readinessProbe:
        tcpSocket: {port: ssh}
        periodSeconds: 5
      lifecycle:
        preStop:
          # The leader drains meanwhile, and needs these ranks for it.
          sleep: {seconds: {{ add .Values.serve.preStopSeconds .Values.serve.drainSeconds }}}
      resources: {{ include "nvlm.serveResources" . | nindent 8 }}
      volumeMounts:
        {{- include "nvlm.mounts" (list . false) | nindent 8 }}
        {{- include "nvlm.mpiMounts" . | nindent 8 }}
  volumes:
    {{- include "nvlm.volumes" . | nindent 4 }}
    {{- include "nvlm.mpiVolumes" . | nindent 4 }}
{{- end }}
