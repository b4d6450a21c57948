{{- define "gantry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "gantry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gantry.metricsName" -}}
{{- printf "%s-metrics" (include "gantry.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "gantry.ownLabels" -}}
app.kubernetes.io/name: {{ include "gantry.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of the pods that Gantry runs in: its own, or Rocket.Chat's. */}}
{{- define "gantry.podSelector" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- toYaml .Values.sidecar.podLabels -}}
{{- else -}}
{{- include "gantry.ownLabels" . -}}
{{- end -}}
{{- end -}}

{{- define "gantry.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "gantry.ownLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gantry.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gantry.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gantry.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "gantry.configMapName" -}}
{{- default (include "gantry.fullname" .) .Values.existingConfig -}}
{{- end -}}

{{/* What is wrong with the values and can be told before anything runs. */}}
{{- define "gantry.validate" -}}
{{- if not .Values.existingSecret -}}
{{- fail "existingSecret: name the Secret that holds the service account's user id and token (keys: secretKeys)" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) -}}
{{- fail "tls.existingSecret: name the kubernetes.io/tls Secret with the certificate" -}}
{{- end -}}
{{- if and .Values.existingConfig .Values.configToml -}}
{{- fail "existingConfig and configToml are both set: keep one" -}}
{{- end -}}
{{- if and .Values.config (or .Values.existingConfig .Values.configToml) -}}
{{- fail "config would have no effect beside existingConfig or configToml: keep one" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name the chat's host, such as chat.example.com" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.parentRefs: name the Gateway" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor needs metrics.enabled" -}}
{{- end -}}
{{- if eq .Values.mode "sidecar" -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "autoscaling has no effect in sidecar mode: scale Rocket.Chat" -}}
{{- end -}}
{{- if .Values.podDisruptionBudget.enabled -}}
{{- fail "podDisruptionBudget has no effect in sidecar mode: Rocket.Chat's own chart has one" -}}
{{- end -}}
{{- end -}}
{{- if not (or .Values.existingConfig .Values.configToml) -}}
{{- $server := .Values.config.server | default dict -}}
{{- if not $server.public_url -}}
{{- fail "config.server.public_url: how browsers reach the chat, such as https://chat.example.com" -}}
{{- end -}}
{{- if and (eq .Values.mode "standalone") (not (.Values.config.rocketchat | default dict).url) -}}
{{- fail "config.rocketchat.url: where Gantry reaches Rocket.Chat, such as http://rocketchat-rocketchat.chat.svc:80" -}}
{{- end -}}
{{- if not (.Values.config.identity | default dict).source -}}
{{- fail "config.identity.source: forward_auth, jwt or header" -}}
{{- end -}}
{{- range $key := list "listen" "admin_listen" -}}
{{- if hasKey $server $key -}}
{{- fail (printf "config.server.%s is set by the chart (8080, and metrics.port): take it out" $key) -}}
{{- end -}}
{{- end -}}
{{- $grace := toString ($server.shutdown_grace | default "30s") -}}
{{- if and (eq .Values.mode "standalone") (regexMatch "^[0-9]+s$" $grace) (le (int .Values.terminationGracePeriodSeconds) (int (trimSuffix "s" $grace))) -}}
{{- fail (printf "terminationGracePeriodSeconds (%d) has to be longer than config.server.shutdown_grace (%s), or pods are killed while they drain" (int .Values.terminationGracePeriodSeconds) $grace) -}}
{{- end -}}
{{- include "gantry.noSecrets" (dict "path" "config" "value" .Values.config) -}}
{{- end -}}
{{- end -}}

{{/* A secret in `config` would end up in a ConfigMap. */}}
{{- define "gantry.noSecrets" -}}
{{- $path := .path -}}
{{- range $key, $value := .value -}}
{{- if kindIs "map" $value -}}
{{- include "gantry.noSecrets" (dict "path" (printf "%s.%s" $path $key) "value" $value) -}}
{{- else if has $key (list "auth_token" "create_token_secret" "logout_secret" "secret" "admin_token" "eab_hmac_key") -}}
{{- fail (printf "%s.%s would be readable in a ConfigMap: put it into existingSecret and name its key in secretKeys, or mount a file and set %s_file" $path $key $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The configuration: the chart's part under the user's. */}}
{{- define "gantry.config" -}}
{{- $keys := .Values.secretKeys -}}
{{- $dir := "/run/secrets/gantry" -}}
{{- $server := dict "listen" "0.0.0.0:8080" "admin_listen" (printf "0.0.0.0:%d" (int .Values.metrics.port)) -}}
{{- if eq .Values.mode "sidecar" -}}
{{- /* A sidecar is told to end when Rocket.Chat has ended: there is nothing left to wait for. */}}
{{- $_ := mergeOverwrite $server (dict "drain_delay" "0s" "shutdown_grace" "10s") -}}
{{- else -}}
{{- $_ := mergeOverwrite $server (dict "drain_delay" "5s" "shutdown_grace" "30s") -}}
{{- end -}}
{{- $rocketchat := dict -}}
{{- $session := dict -}}
{{- $jwt := dict -}}
{{- with $keys.userId }}{{ $_ := set $rocketchat "user_id_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- with $keys.authToken }}{{ $_ := set $rocketchat "auth_token_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- with $keys.createTokenSecret }}{{ $_ := set $rocketchat "create_token_secret_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- with $keys.logoutSecret }}{{ $_ := set $session "logout_secret_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- with $keys.adminToken }}{{ $_ := set $server "admin_token_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- with $keys.jwtSecret }}{{ $_ := set $jwt "secret_file" (printf "%s/%s" $dir .) }}{{ end -}}
{{- if (.Values.config.rocketchat | default dict).user_id }}{{ $_ := unset $rocketchat "user_id_file" }}{{ end -}}
{{- if eq .Values.mode "sidecar" }}{{ $_ := set $rocketchat "url" "http://127.0.0.1:3000" }}{{ end -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $server "tls" (dict "listen" "0.0.0.0:8443" "cert_file" "/etc/gantry/tls/tls.crt" "key_file" "/etc/gantry/tls/tls.key") -}}
{{- end -}}
{{- $own := dict "server" $server "rocketchat" $rocketchat "log" (dict "format" "json") -}}
{{- if $session }}{{ $_ := set $own "session" $session }}{{ end -}}
{{- if $jwt }}{{ $_ := set $own "identity" (dict "jwt" $jwt) }}{{ end -}}
{{- $all := mergeOverwrite $own (deepCopy .Values.config) -}}
{{- include "gantry.tomlTable" (dict "path" "" "value" $all) | trim -}}
{{- end -}}

{{/* A table: its plain keys, then the tables in it. (toToml writes whole numbers as floats.) */}}
{{- define "gantry.tomlTable" -}}
{{- $path := .path -}}
{{- $value := .value -}}
{{- $plain := list -}}
{{- $tables := list -}}
{{- range $key := keys $value | sortAlpha -}}
{{- $one := get $value $key -}}
{{- if kindIs "map" $one -}}{{- $tables = append $tables $key -}}
{{- else if not (kindIs "invalid" $one) -}}{{- $plain = append $plain $key -}}{{- end -}}
{{- end -}}
{{- if and $path $plain }}

[{{ $path }}]
{{- end }}
{{- range $key := $plain }}
{{ $key }} = {{ include "gantry.tomlValue" (get $value $key) }}
{{- end }}
{{- range $key := $tables }}
{{- include "gantry.tomlTable" (dict "path" (ternary $key (printf "%s.%s" $path $key) (eq $path "")) "value" (get $value $key)) }}
{{- end }}
{{- end -}}

{{- define "gantry.tomlValue" -}}
{{- if kindIs "string" . -}}
{{- . | toRawJson -}}
{{- else if kindIs "bool" . -}}
{{- . -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "gantry.tomlValue" .) }}{{ end -}}
{{- printf "[%s]" (join ", " $items) -}}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* The container, the same beside Rocket.Chat and alone. */}}
{{- define "gantry.container" -}}
name: gantry
image: {{ include "gantry.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if eq .Values.mode "sidecar" }}
# A native sidecar: starts before Rocket.Chat, ends after it.
restartPolicy: Always
{{- end }}
args:
  - run
  - --config=/etc/gantry/config/proxy.toml
  {{- with .Values.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: {{ eq .Values.mode "sidecar" | ternary "gantry-http" "http" }}
    containerPort: 8080
    protocol: TCP
  {{- if .Values.tls.enabled }}
  - name: {{ eq .Values.mode "sidecar" | ternary "gantry-https" "https" }}
    containerPort: 8443
    protocol: TCP
  {{- end }}
  - name: {{ include "gantry.metricsPort" . }}
    containerPort: {{ .Values.metrics.port }}
    protocol: TCP
{{- if .Values.startupProbe.enabled }}
startupProbe:
  {{- include "gantry.httpProbe" (dict "root" . "path" "/livez" "probe" .Values.startupProbe) | nindent 2 }}
{{- end }}
{{- if .Values.livenessProbe.enabled }}
livenessProbe:
  {{- include "gantry.httpProbe" (dict "root" . "path" "/livez" "probe" .Values.livenessProbe) | nindent 2 }}
{{- end }}
{{- if .Values.readinessProbe.enabled }}
readinessProbe:
  {{- include "gantry.httpProbe" (dict "root" . "path" "/readyz" "probe" .Values.readinessProbe) | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- if eq $.Values.mode "sidecar" }}
  {{- /* The pod is Rocket.Chat's: what stands in podSecurityContext elsewhere has to be said here. */}}
  {{- toYaml (merge (deepCopy .) (omit $.Values.podSecurityContext "fsGroup" "fsGroupChangePolicy" "supplementalGroups" "sysctls")) | nindent 2 }}
  {{- else }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
volumeMounts:
  {{- include "gantry.volumeMounts" . | nindent 2 }}
{{- end -}}

{{- define "gantry.metricsPort" -}}
{{- eq .Values.mode "sidecar" | ternary "gantry-metrics" "metrics" -}}
{{- end -}}

{{- define "gantry.httpProbe" -}}
httpGet:
  path: {{ .path }}
  port: {{ include "gantry.metricsPort" .root }}
{{ omit .probe "enabled" | toYaml }}
{{- end -}}

{{/* Directories, never subPath: a file mounted by subPath is not renewed. */}}
{{- define "gantry.volumeMounts" -}}
- name: gantry-config
  mountPath: /etc/gantry/config
  readOnly: true
- name: gantry-secrets
  mountPath: /run/secrets/gantry
  readOnly: true
{{- if .Values.tls.enabled }}
- name: gantry-tls
  mountPath: /etc/gantry/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* 0440 and not 0400: in a pod the files belong to root, and Gantry reads them by the pod's fsGroup, which
Rocket.Chat's chart sets too. */}}
{{- define "gantry.volumes" -}}
- name: gantry-config
  configMap:
    name: {{ include "gantry.configMapName" . }}
- name: gantry-secrets
  secret:
    secretName: {{ .Values.existingSecret }}
    defaultMode: 0440
    items:
      {{- range $what, $key := .Values.secretKeys }}
      {{- if $key }}
      - key: {{ $key }}
        path: {{ $key }}
      {{- end }}
      {{- end }}
{{- if .Values.tls.enabled }}
- name: gantry-tls
  secret:
    secretName: {{ .Values.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
