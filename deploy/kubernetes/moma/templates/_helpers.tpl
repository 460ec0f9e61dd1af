{{- define "moma.labels" -}}
app.kubernetes.io/name: moma
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "moma.selector" -}}
app.kubernetes.io/name: moma
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "moma.image" -}}
{{ .of.repository }}:{{ .of.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Of a pod: nothing of it is root's, and it knows no Kubernetes. */}}
{{- define "moma.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "moma.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Lays the member's folder: files/prepare.py says what goes where. */}}
{{- define "moma.prepare" -}}
- name: prepare
  image: {{ .image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python, /given/config/prepare.py]
  {{- include "moma.container" . | nindent 2 }}
  resources:
    requests: {cpu: 50m, memory: 256Mi}
    limits: {memory: 512Mi}
  volumeMounts:
    - {name: config, mountPath: /given/config, readOnly: true}
    - {name: secret, mountPath: /given/secret, readOnly: true}
    {{- if .metrics }}
    - {name: metrics, mountPath: /given/metrics, readOnly: true}
    {{- end }}
    {{- if .database }}
    - {name: database, mountPath: /given/database, readOnly: true}
    {{- end }}
    - {name: member, mountPath: /etc/moma}
    - {name: state, mountPath: /var/lib/moma}
{{- end }}

{{- define "moma.volumes" -}}
- name: config
  configMap: {name: {{ .name }}}
- name: secret
  secret: {secretName: {{ .secret }}}
{{- if .metrics }}
- name: metrics
  secret: {secretName: {{ .metrics }}}
{{- end }}
{{- if .database }}
- name: database
  secret:
    secretName: {{ .database.secret }}
    items:
      - {key: {{ .database.key }}, path: url}
{{- end }}
- name: member # keys lie in memory alone
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end }}

{{- define "moma.metrics" -}}
{{- if . -}}
{host: 0.0.0.0, port: 9464, certificate: metrics.pem, key: metrics.key, token_file: metrics.token}
{{- else -}}
{host: 127.0.0.1, port: 9464}
{{- end }}
{{- end }}

{{/* It runs: its metrics page says so, which is on loopback or asks for no client. */}}
{{- define "moma.alive" -}}
livenessProbe:
  exec: {command: [healthy]}
  initialDelaySeconds: 30
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 4
startupProbe:
  exec: {command: [healthy]}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 60
{{- end }}
