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

{{/* Of each backend, the values that are its options, and what the config calls them. */}}
{{- define "flannel-ebpf.backends" -}}
vxlan: {backendPort: Port, vni: VNI, mtu: MTU, directRouting: DirectRouting, GBP: GBP, macPrefix: MacPrefix}
udp: {backendPort: Port}
ipip: {directRouting: DirectRouting}
wireguard: {backendPort: ListenPort, backendPortv6: ListenPortV6, mtu: MTU, psk: PSK, tunnelMode: Mode, keepaliveInterval: PersistentKeepaliveInterval}
host-gw: {}
alloc: {}
extension: {}
{{- end -}}

{{/* `Backend` of net-conf.json. */}}
{{- define "flannel-ebpf.backend" -}}
{{- $flannel := .Values.flannel -}}
{{- $backend := dict "Type" $flannel.backend -}}
{{- range $value, $option := get (include "flannel-ebpf.backends" . | fromYaml) $flannel.backend -}}
  {{- with get $flannel $value -}}
    {{- if or (kindIs "bool" .) (kindIs "string" .) -}}
      {{- $_ := set $backend $option . -}}
    {{- else -}}
      {{- $_ := set $backend $option (int .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $command, $line := .Values.ebpf.extension -}}
  {{- $_ := set $backend (title $command) $line -}}
{{- end -}}
{{- toPrettyJson $backend -}}
{{- end -}}
