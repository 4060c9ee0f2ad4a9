{{/* A namespace, which outlives the release: its claims and Secrets would go with it. Takes
     [name, role]. */}}
{{- define "adapterdistill.namespace" -}}
apiVersion: v1
kind: Namespace
metadata:
  name: {{ index . 0 }}
  labels:
    adapterdistill.io/role: {{ index . 1 }}
    pod-security.kubernetes.io/enforce: restricted
  annotations: {helm.sh/resource-policy: keep}
{{- end }}

{{/* A claim, which outlives the release. Takes [root, namespace, name, size, access mode]. */}}
{{- define "adapterdistill.claim" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ index . 2 }}
  namespace: {{ index . 1 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [{{ index . 4 }}]
  {{- with $root.Values.storage.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ index . 3 }}}
{{- end }}

{{/* The trust domain of a Ray cluster: its namespace, the store of its bundles, and who gets in and
     out. Takes [root, namespace]. */}}
{{- define "adapterdistill.domain" -}}
{{- $root := index . 0 }}{{ $namespace := index . 1 }}{{ $registry := $root.Values.registry -}}
{{ include "adapterdistill.namespace" (list $namespace "owner") }}
---
# Bundles: onboarding writes them, serving reads them.
{{ include "adapterdistill.claim" (list $root $namespace "serving-store" $root.Values.storage.servingStore "ReadWriteMany") }}
---
# No traffic in or out, except what the policies below allow.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: nothing
  namespace: {{ $namespace }}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
# Ray's processes talk on many ports among themselves.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: own-pods
  namespace: {{ $namespace }}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{podSelector: {}}]
  egress:
    - to: [{podSelector: {}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: dns
  namespace: {{ $namespace }}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to:
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: kube-system}
          podSelector:
            matchLabels: {k8s-app: kube-dns}
      ports:
        - {port: 53, protocol: UDP}
        - {port: 53, protocol: TCP}
---
# The only way out: from onboarding pods to the registry's port. Serving has no way out.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: registry
  namespace: {{ $namespace }}
spec:
  podSelector:
    matchLabels: {adapterdistill.io/registry: "yes"}
  policyTypes: [Egress]
  egress:
    - to:
        {{- with $registry.external }}
        - ipBlock: {cidr: {{ .cidr | quote }}}
        {{- else }}
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ $registry.namespace }}}
          podSelector:
            matchLabels: {app: registry}
        {{- end }}
      ports:
        - {port: {{ ($registry.external | default $registry).port }}, protocol: TCP}
---
# Whoever reaches a head's dashboard may run code. KubeRay's operator submits jobs there and looks
# after Serve; `kubectl port-forward` goes through the kubelet and needs a Kubernetes permission.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: operator
  namespace: {{ $namespace }}
spec:
  podSelector:
    matchLabels: {ray.io/node-type: head}
  policyTypes: [Ingress]
  ingress:
    - from:
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ $root.Values.operatorNamespace }}}
      ports:
        - {port: 8265, protocol: TCP}
---
# Questions come through a gateway, which ends TLS and knows who asks.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: search
  namespace: {{ $namespace }}
spec:
  podSelector:
    matchLabels: {adapterdistill.io/serving: "yes"}
  policyTypes: [Ingress]
  ingress:
    - from:
        - namespaceSelector:
            matchLabels: {adapterdistill.io/role: gateway}
      ports:
        - {port: {{ $root.Values.serving.port }}, protocol: TCP}
{{- end }}

{{/* What belongs to one tenant in its domain: its claims, its run and the pod for its rows. Takes
     [root, tenant, namespace, prefix]. */}}
{{- define "adapterdistill.tenant" -}}
{{- $root := index . 0 }}{{ $tenant := index . 1 }}{{ $namespace := index . 2 }}{{ $prefix := index . 3 -}}
{{- $registry := $root.Values.registry }}
{{- $inside := printf "registry.%s.svc:%d" $registry.namespace (int $registry.port) }}
{{- $address := $inside }}
{{- with $registry.external }}{{ $address = printf "%s:%d" .host (int .port) }}{{ end }}
{{- $resource := printf "owner:%s" $tenant.name }}
# The owner puts its rows here. Runs mount it read-only.
{{ include "adapterdistill.claim" (list $root $namespace (print $prefix "data") $root.Values.storage.data "ReadWriteOnce") }}
---
# State and checkpoints of runs, from which a run that died is resumed in any pod.
{{ include "adapterdistill.claim" (list $root $namespace (print $prefix "workspace") $root.Values.storage.workspace "ReadWriteOnce") }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $prefix }}onboarding
  namespace: {{ $namespace }}
data:
  run.toml: |
    tenant = {{ $tenant.name | quote }}
    data = "/data"
    workspace = "/workspace"
    serving_store = "/serving-store"
    {{- $run := deepCopy ($tenant.settings | default dict) }}
    {{- $own := dict "registry" (dict "address" $address "credentials" "/credentials") }}
    {{- $_ := set $own "placement" (dict "resource" $resource "timeout_s" 300) }}
    {{- with $tenant.round }}{{ $_ := set $own "teachers" (dict "round" (int .)) }}{{ end }}
    {{- toToml (mergeOverwrite $run $own) | nindent 4 }}
{{- if $tenant.rows }}
---
# kubectl cp DIR/. NAMESPACE/{{ $prefix }}rows:/data
apiVersion: v1
kind: Pod
metadata:
  name: {{ $prefix }}rows
  namespace: {{ $namespace }}
spec:
  {{- include "adapterdistill.user" $root | nindent 2 }}
  containers:
    - name: rows
      {{- include "adapterdistill.image" $root | nindent 6 }}
      command: [sleep, infinity]
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: data, mountPath: /data}
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: {{ $prefix }}data}
{{- end }}
{{- end }}
