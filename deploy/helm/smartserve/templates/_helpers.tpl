{{- /* The name of all objects: that of the release, or with "-smartserve" if it does not contain it. */ -}}
{{- define "smartserve.name" -}}
{{- if contains "smartserve" .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ .Release.Name | trunc 39 | trimSuffix "-" }}-smartserve
{{- end -}}
{{- end -}}

{{- define "smartserve.selector" -}}
app.kubernetes.io/name: smartserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "smartserve.labels" -}}
{{ include "smartserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "smartserve.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{- /* A variable from the Secret; arguments: root, variable, key, whether it may be missing. */ -}}
{{- define "smartserve.secretVariable" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ (index . 0).Values.secret.name }}
      key: {{ index . 2 }}
      {{- if index . 3 }}
      optional: true
      {{- end }}
{{- end -}}

{{- define "smartserve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Settings as TOML. Helm's toToml writes large integers as floats. Arguments: path, table. */ -}}
{{- define "smartserve.toml" -}}
{{- $path := index . 0 -}}
{{- $table := index . 1 -}}
{{- range $key, $value := $table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "smartserve.tomlKey" $key }} = {{ include "smartserve.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := $table -}}
{{- if kindIs "map" $value -}}
{{- $inner := append $path (include "smartserve.tomlKey" $key) }}

[{{ join "." $inner }}]
{{- include "smartserve.toml" (list $inner $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "smartserve.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toRawJson . }}{{- end -}}
{{- end -}}

{{- define "smartserve.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- else if kindIs "slice" . -}}
[{{- range $index, $value := . -}}
{{- if $index }}, {{ end -}}{{ include "smartserve.tomlValue" $value }}
{{- end -}}]
{{- else if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key, $value := . -}}
{{- if not $first }}, {{ end -}}{{ include "smartserve.tomlKey" $key }} = {{ include "smartserve.tomlValue" $value }}
{{- $first = false -}}
{{- end -}} }
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- /* What the schema cannot say. */ -}}
{{- define "smartserve.check" -}}
{{- $values := .Values -}}
{{- if or $values.autoscaling.enabled (gt (int $values.replicas) 1) -}}
{{- if not $values.secret.keys.databaseUrl -}}
{{- fail "several servers need MySQL or MariaDB: set secret.keys.databaseUrl, or replicas to 1 and autoscaling.enabled to false" -}}
{{- end -}}
{{- if and $values.dataVolume.persistent (not $values.dataVolume.existingClaim) -}}
{{- fail "several servers cannot share the volume that this chart creates: set dataVolume.persistent to false, or dataVolume.existingClaim to a ReadWriteMany claim" -}}
{{- end -}}
{{- end -}}
{{- if not (or $values.dataVolume.persistent $values.secret.keys.databaseUrl) -}}
{{- fail "without a volume SQLite and originals are lost with the pod: set dataVolume.persistent to true, or secret.keys.databaseUrl" -}}
{{- end -}}
{{- $directory := dig "renditions" "directory" "" $values.settings -}}
{{- if and $values.cacheVolume.enabled (ne $directory "/var/cache/smartserve") -}}
{{- fail "cacheVolume.enabled needs settings.renditions.directory: /var/cache/smartserve" -}}
{{- end -}}
{{- if and (not $values.cacheVolume.enabled) (hasPrefix "/var/cache/" $directory) -}}
{{- fail (printf "settings.renditions.directory: %s is on no volume: set cacheVolume.enabled" $directory) -}}
{{- end -}}
{{- if and (dig "s3" "renditions" "" $values.settings | empty | not) $values.networkPolicy.enabled -}}
{{- $endpoint := urlParse (dig "s3" "endpoint" "" $values.settings | default "https://s3.amazonaws.com") -}}
{{- $port := splitList ":" $endpoint.host | rest | last | default (eq $endpoint.scheme "http" | ternary "80" "443") -}}
{{- if not (has $port (toStrings $values.networkPolicy.egressPorts)) -}}
{{- fail (printf "networkPolicy.egressPorts lacks %s, the port of settings.s3.endpoint" $port) -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.enabled needs ingress.host" -}}
{{- end -}}
{{- $grace := add (dig "server" "lame_duck_s" 5 $values.settings) (dig "server" "drain_s" 20 $values.settings) 5 -}}
{{- if lt (int $values.terminationGracePeriodSeconds) (int $grace) -}}
{{- fail (printf "terminationGracePeriodSeconds must be at least %d: settings.server.lame_duck_s, drain_s, and 5 s for the workers" $grace) -}}
{{- end -}}
{{- end -}}
