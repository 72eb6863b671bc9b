{{- define "flannel-ebpf.labels" -}}
tier: node
app: flannel
k8s-app: flannel
{{- end -}}

{{- define "flannel-ebpf.image" -}}
{{ .repository }}:{{ .tag }}
{{- end -}}

{{/* Flags that come of values; one without a value is left to the agent. */}}
{{- define "flannel-ebpf.flags" -}}
{{- $ebpf := .Values.ebpf -}}
{{- $flags := dict
  "fast-path" $ebpf.fastPath
  "pod-hook" $ebpf.podHook
  "xdp" $ebpf.xdp
  "gro" $ebpf.gro
  "source-check" $ebpf.sourceCheck
  "tunnel-firewall" $ebpf.tunnelFirewall
  "snat-exempt" (join "," $ebpf.snatExempt)
  "snat-ports" $ebpf.snatPorts
-}}
{{- with .Values.flannel.healthz.port -}}
  {{- $_ := set $flags "healthz-port" (int . | toString) -}}
{{- end -}}
{{- range $flag, $value := $flags -}}
  {{- if $value }}
{{ $flag }}: {{ $value | quote }}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* `Backend` of net-conf.json. */}}
{{- define "flannel-ebpf.backend" -}}
{{- $flannel := .Values.flannel -}}
{{- $backend := dict "Type" $flannel.backend -}}
{{- $port := ternary "ListenPort" "Port" (eq $flannel.backend "wireguard") -}}
{{- range $value, $option := dict "backendPort" $port "backendPortv6" "ListenPortV6" "vni" "VNI" "mtu" "MTU" "keepaliveInterval" "PersistentKeepaliveInterval" -}}
  {{- with get $flannel $value -}}
    {{- $_ := set $backend $option (int .) -}}
  {{- end -}}
{{- end -}}
{{- if $flannel.directRouting -}}
  {{- $_ := set $backend "DirectRouting" true -}}
{{- end -}}
{{- if $flannel.GBP -}}
  {{- $_ := set $backend "GBP" true -}}
{{- end -}}
{{- with $flannel.macPrefix -}}
  {{- $_ := set $backend "MacPrefix" . -}}
{{- end -}}
{{- with $flannel.psk -}}
  {{- $_ := set $backend "PSK" . -}}
{{- end -}}
{{- with $flannel.tunnelMode -}}
  {{- $_ := set $backend "Mode" . -}}
{{- end -}}
{{- toPrettyJson $backend -}}
{{- end -}}
