{{- define "nvlm.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "nvlm.fullname" -}}
{{- $name := include "nvlm.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "nvlm.selector" -}}
app.kubernetes.io/name: {{ include "nvlm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nvlm.labels" -}}
{{ include "nvlm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Of one pod. */}}
{{- define "nvlm.podGpus" -}}
{{- if mod .Values.gpus .Values.nodes }}{{ fail (printf "gpus (%v) must be divided evenly by nodes (%v)" .Values.gpus .Values.nodes) }}{{ end }}
{{- div .Values.gpus .Values.nodes }}
{{- end }}

{{/* A rank takes the GPU of its number modulo the GPUs of a node, which the engine has from its recipe. */}}
{{- define "nvlm.checkNodes" -}}
{{- $nodes := int .Values.nodes }}
{{- if and (gt $nodes 1) (not (regexMatch (printf `(?m)^\s*nodes\s*=\s*%d\s*(#.*)?$` $nodes) .Values.recipeToml)) }}
{{- fail (printf "nodes above 1 need a recipe of your own: recipeToml must say nodes = %d under [gpu], see examples/several-nodes.yaml" $nodes) }}
{{- end }}
{{- end }}

{{- define "nvlm.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-multi-node" "" (gt (int .Values.nodes) 1))) }}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ $tag }}{{ end }}{{ end }}
{{- end }}

{{- define "nvlm.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "nvlm.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "nvlm.deploymentClaim" -}}
{{- .Values.storage.deployment.existingClaim | default (printf "%s-deployment" (include "nvlm.fullname" .)) }}
{{- end }}

{{/* What all pods have, the Job's too. */}}
{{- define "nvlm.pod" -}}
serviceAccountName: {{ include "nvlm.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "nvlm.container" -}}
image: {{ include "nvlm.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{ toYaml .Values.securityContext | nindent 2 }}
{{- end }}

{{/* Takes a list: requests and limits, and the extended resources of which a limit must equal its request. */}}
{{- define "nvlm.resources" -}}
{{- $extended := index . 1 -}}
{{- with index . 0 -}}
requests: {{ merge (deepCopy $extended) (.requests | default dict) | toYaml | nindent 2 }}
limits: {{ merge (deepCopy $extended) (.limits | default dict) | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of a pod that serves. */}}
{{- define "nvlm.serveResources" -}}
{{- $extended := dict .Values.gpuResource (include "nvlm.podGpus" . | int) }}
{{- if gt (int .Values.nodes) 1 }}{{ $extended = merge $extended .Values.multiNode.networkResources }}{{ end }}
{{- include "nvlm.resources" (list .Values.resources $extended) }}
{{- end }}

{{- define "nvlm.volumes" -}}
- name: checkpoint
  {{- with .Values.storage.checkpoint }}
  {{- if .hostPath }}
  hostPath: {path: {{ .hostPath | quote }}, type: Directory}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ .existingClaim }}, readOnly: true}
  {{- end }}
  {{- end }}
- name: deployment
  persistentVolumeClaim: {claimName: {{ include "nvlm.deploymentClaim" . }}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
{{- end }}

{{/* Takes a list: the root, whether the deployment may be written. */}}
{{- define "nvlm.mounts" -}}
{{- $root := index . 0 }}
- name: checkpoint
  mountPath: /checkpoint
  readOnly: true
  {{- with $root.Values.storage.checkpoint.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
- {name: deployment, mountPath: /deployment, readOnly: {{ not (index . 1) }}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- end }}
