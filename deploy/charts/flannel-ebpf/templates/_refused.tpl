{{/* Values that have no meaning here, and what to do. Whoever took them over from flannel's values would believe that they hold. */}}
{{- define "flannel-ebpf.refuse" -}}
{{- $flannel := .Values.flannel -}}
{{- if not .Values.podCidr -}}
  {{- fail "podCidr is empty: the agent forwards IPv4, and needs the range of all pods" -}}
{{- end -}}
{{- if .Values.podCidrv6 -}}
  {{- fail "podCidrv6 is set: IPv6 is not supported yet; leave it empty" -}}
{{- end -}}
{{- if (.Values.netpol).enabled -}}
  {{- fail "netpol.enabled is true: this chart brings no policy engine; install one by its own manifest, and see docs/fast-path.md for what the fast path needs of it" -}}
{{- end -}}
{{- if $flannel.image_cni -}}
  {{- fail "flannel.image_cni is set: it is flannel.flannel_cni.image, as in flannel's chart since v0.26" -}}
{{- end -}}
{{- if $flannel.enableNFTables -}}
  {{- fail "flannel.enableNFTables is true: source NAT takes no rule here, and those in FORWARD are made in whichever kind drops; leave it out" -}}
{{- end -}}
{{- $plugin := $flannel.flannel_cni.image -}}
{{- if and $plugin.tag (not $plugin.repository) -}}
  {{- fail (printf "flannel.flannel_cni.image.tag is %q, and there is no flannel.flannel_cni.image.repository: no image of ours has that tag; give both, or none" $plugin.tag) -}}
{{- end -}}
{{- if and (regexMatch "^v0\\.2[0-9]\\.[0-9]+" $flannel.image.tag) (not (hasSuffix "flannel-io/flannel" $flannel.image.repository)) -}}
  {{- fail (printf "flannel.image.tag is %q, which is flannel's: set it to the tag of this agent's image" $flannel.image.tag) -}}
{{- end -}}
{{- if hasSuffix "flannel-io/flannel" $flannel.image.repository -}}
  {{- fail (printf "flannel.image.repository is %q: flannel's image has no flannel-agent; set it to where this agent's image is" $flannel.image.repository) -}}
{{- end -}}
{{- $backends := include "flannel-ebpf.backends" . | fromYaml -}}
{{- if not (hasKey $backends $flannel.backend) -}}
  {{- fail (printf "flannel.backend is %q: not supported, write vxlan, host-gw, udp, ipip, wireguard, alloc or extension" $flannel.backend) -}}
{{- end -}}
{{- if and $flannel.GBP (eq (.Values.ebpf.gro | default "") "anchor") -}}
  {{- fail "flannel.GBP is true, and ebpf.gro is anchor: the kernel's device would refuse packets with a mark; write pair" -}}
{{- end -}}
{{- $options := get $backends $flannel.backend -}}
{{- range list "backendPort" "backendPortv6" "vni" "mtu" "directRouting" "GBP" "macPrefix" "psk" "tunnelMode" "keepaliveInterval" -}}
  {{- if and (get $flannel .) (not (hasKey $options .)) -}}
    {{- fail (printf "flannel.%s is set: the backend %s has no such option; leave it out" . $flannel.backend) -}}
  {{- end -}}
{{- end -}}
{{- $ebpf := .Values.ebpf -}}
{{- if has $flannel.backend (list "host-gw" "alloc" "extension") -}}
  {{- range list "xdp" "gro" "sourceCheck" "tunnelFirewall" -}}
    {{- if get $ebpf . -}}
      {{- fail (printf "ebpf.%s is set: it is about tunnel packets, and %s has none; leave it out" . $flannel.backend) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if eq $flannel.backend "wireguard" -}}
  {{- range list "xdp" "gro" "sourceCheck" "tunnelFirewall" -}}
    {{- if get $ebpf . -}}
      {{- fail (printf "ebpf.%s is set: it is about tunnel packets of the programs, and with wireguard the kernel makes them; leave it out" .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if has $flannel.backend (list "udp" "ipip") -}}
  {{- if or (eq ($ebpf.gro | default "") "anchor") (eq ($ebpf.xdp | default "") "on") -}}
    {{- fail (printf "ebpf.gro is anchor, or ebpf.xdp is on: both are for the backend vxlan, and flannel.backend is %s; leave them out" $flannel.backend) -}}
  {{- end -}}
{{- end -}}
{{- if and $ebpf.extension (ne $flannel.backend "extension") -}}
  {{- fail (printf "ebpf.extension is set: its commands are of the backend extension, and flannel.backend is %s; leave it out" $flannel.backend) -}}
{{- end -}}
{{- $masquerades := false -}}
{{- range $flannel.args -}}
  {{- if regexMatch "^--?ip-masq(=(true|TRUE|True|t|T|1))?$" . -}}
    {{- $masquerades = true -}}
  {{- end -}}
{{- end -}}
{{- if and (or .Values.ebpf.snatExempt .Values.ebpf.snatPorts) (not $masquerades) -}}
  {{- fail "ebpf.snatExempt or ebpf.snatPorts is set, and flannel.args has no --ip-masq: there is no source NAT then; add it, or leave them out" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (not $flannel.healthz.port) -}}
  {{- fail "metrics.podMonitor.enabled is true, and flannel.healthz.port is 0: metrics are served at that port; choose one" -}}
{{- end -}}
{{- range $flag, $value := include "flannel-ebpf.flags" . | fromYaml -}}
  {{- range $flannel.args -}}
    {{- if regexMatch (printf "^--?%s(=|$)" $flag) . -}}
      {{- fail (printf "flannel.args has %s, which the chart sets by a value of its own: leave it out there" .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
