{{/* The command line of the service. */}}
{{- define "nvlm.args" -}}
- serve
- /deployment
- --checkpoint
- /checkpoint
- --host
- 0.0.0.0
- --drain-s
- {{ .Values.serve.drainSeconds | quote }}
- --start-timeout-s
- {{ .Values.serve.startSeconds | quote }}
- --json-log
- --model-name
- {{ .Values.serve.modelName | quote }}
{{- range $name, $number := .Values.serve.limits }}
- --limit
- {{ printf "%s=%v" $name $number | quote }}
{{- end }}
{{- range .Values.serve.allowOrigins }}
- --allow-origin
- {{ . | quote }}
{{- end }}
{{- range .Values.serve.allowImageHosts }}
- --allow-image-host
- {{ . | quote }}
{{- end }}
{{- with .Values.serve.apiKeys }}
{{- if .existingSecret }}
- --api-key-file
- {{ printf "/etc/nvlm-trt/keys/%s" .key | quote }}
{{- end }}
{{- end }}
{{- if .Values.serve.tls.existingSecret }}
- --tls-cert
- /etc/nvlm-trt/tls/tls.crt
- --tls-key
- /etc/nvlm-trt/tls/tls.key
{{- end }}
{{- range .Values.serve.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Takes a list: what is asked of the supervisor, a probe's times. */}}
{{- define "nvlm.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: health
{{ toYaml (index . 1) }}
{{- end }}

{{/* The pod that answers: the only one, or a group's leader. */}}
{{- define "nvlm.server" -}}
{{- $several := gt (int .Values.nodes) 1 -}}
metadata:
  labels:
    {{- include "nvlm.labels" . | nindent 4 }}
    app.kubernetes.io/component: server
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    kubectl.kubernetes.io/default-container: server
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  {{- include "nvlm.pod" . | nindent 2 }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{ toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ add .Values.serve.preStopSeconds .Values.serve.drainSeconds .Values.serve.stopSeconds }}
  {{- if $several }}
  initContainers:
    - name: wait-for-workers
      {{- include "nvlm.container" . | nindent 6 }}
      command: [bash, /etc/nvlm-trt/mpi/write-hosts.sh, /run/mpi/hosts]
      env:
        - {name: GPUS, value: {{ include "nvlm.podGpus" . | quote }}}
        - {name: SSH_PORT, value: {{ .Values.multiNode.sshPort | quote }}}
      resources:
        requests: {cpu: 100m, memory: 64Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: mpi, mountPath: /etc/nvlm-trt/mpi, readOnly: true}
        - {name: hosts, mountPath: /run/mpi}
  {{- end }}
  containers:
    - name: server
      {{- include "nvlm.container" . | nindent 6 }}
      args: {{ include "nvlm.args" . | nindent 8 }}
      env:
        {{- if $several }}
        # What the leader stages must be seen by every rank under the same path.
        - {name: TMPDIR, value: /run/nvlm-trt}
        {{- include "nvlm.mpiEnv" . | nindent 8 }}
        {{- end }}
        - {name: HOME, value: /tmp}
        {{- with .Values.serve.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: api, containerPort: 9000}
        - {name: health, containerPort: 9001}
        - {name: metrics, containerPort: 8002}
      startupProbe: {{ include "nvlm.probe" (list "/health" .Values.probes.startup) | nindent 8 }}
      readinessProbe: {{ include "nvlm.probe" (list "/health" .Values.probes.readiness) | nindent 8 }}
      livenessProbe: {{ include "nvlm.probe" (list "/live" .Values.probes.liveness) | nindent 8 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ .Values.serve.preStopSeconds }}}
      resources: {{ include "nvlm.serveResources" . | nindent 8 }}
      volumeMounts:
        {{- include "nvlm.mounts" (list . false) | nindent 8 }}
        {{- if .Values.serve.apiKeys.existingSecret }}
        - {name: keys, mountPath: /etc/nvlm-trt/keys, readOnly: true}
        {{- end }}
        {{- if .Values.serve.tls.existingSecret }}
        - {name: tls, mountPath: /etc/nvlm-trt/tls, readOnly: true}
        {{- end }}
        {{- if $several }}
        - {name: hosts, mountPath: /run/mpi, readOnly: true}
        {{- include "nvlm.mpiMounts" . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "nvlm.volumes" . | nindent 4 }}
    {{- with .Values.serve.apiKeys.existingSecret }}
    - {name: keys, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
    {{- with .Values.serve.tls.existingSecret }}
    - {name: tls, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
    {{- if $several }}
    - {name: hosts, emptyDir: {}}
    {{- include "nvlm.mpiVolumes" . | nindent 4 }}
    {{- end }}
{{- end }}
