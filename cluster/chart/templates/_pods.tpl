{{/* What the Pod Security Standard "restricted" asks of a pod, and the user of the image. */}}
{{- define "adapterdistill.user" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A container's image, without rights and with a root file system that nobody writes to. */}}
{{- define "adapterdistill.image" -}}
image: {{ .Values.image }}
imagePullPolicy: {{ .Values.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* What Ray writes (sessions, sockets, logs) is in a folder that no other pod sees. */}}
{{- define "adapterdistill.tmp" -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- end }}

{{/* Settings of Serve that Ray reads when it starts: HAProxy answers several times as many requests;
     a replica that answers on the thread that reads its requests needs 6% less of a core. */}}
{{- define "adapterdistill.serveEnvironment" -}}
env:
  - {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
  - {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
{{- end }}

{{/* A Ray cluster without its worker groups. Takes [root, whether it serves].

     The operator makes the token's Secret and, with cert-manager, the certificates of mutual TLS
     between Ray's processes. The head runs no work, so that its loss ends none. The dashboard listens
     to the operator and the kubelet; NetworkPolicies keep others out. */}}
{{- define "adapterdistill.cluster" -}}
{{- $root := index . 0 }}{{ $serves := index . 1 -}}
rayVersion: {{ $root.Values.rayVersion }}
authOptions: {mode: token}
tlsOptions: {enabled: true}
headGroupSpec:
  rayStartParams:
    num-cpus: "0"
    dashboard-host: 0.0.0.0
    object-store-memory: "200000000"    # nothing big passes through it
  template:
    {{- if $serves }}
    metadata:
      labels: {adapterdistill.io/serving: "yes"}
    {{- end }}
    spec:
      {{- include "adapterdistill.user" $root | nindent 6 }}
      containers:
        - name: ray-head
          {{- include "adapterdistill.image" $root | nindent 10 }}
          {{- if $serves }}
          {{- include "adapterdistill.serveEnvironment" $root | nindent 10 }}
          {{- end }}
          ports:
            - {name: gcs, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            {{- if $serves }}
            - {name: serve, containerPort: {{ $root.Values.serving.port }}}
            {{- end }}
          resources: {{- toYaml $root.Values.resources.head | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        {{- include "adapterdistill.tmp" $root | nindent 8 }}
{{- end }}

{{/* The one node that has a tenant's rows, to which its runs are pinned. Takes [root, tenant, group,
     prefix of the names of its claims, ConfigMap and Secret].

     Kubernetes mounts Secrets readable by a group, and such keys are refused: an init container copies
     them into memory, mode 600. */}}
{{- define "adapterdistill.owner" -}}
{{- $root := index . 0 }}{{ $tenant := index . 1 }}{{ $prefix := index . 3 -}}
groupName: {{ index . 2 }}
replicas: 1
minReplicas: 1
maxReplicas: 1
rayStartParams:
  resources: {{ printf "'{\"owner:%s\": 1}'" $tenant.name | toJson }}
  object-store-memory: "200000000"
template:
  metadata:
    labels: {adapterdistill.io/registry: "yes"}
  spec:
    {{- include "adapterdistill.user" $root | nindent 4 }}
    initContainers:
      - name: credentials
        {{- include "adapterdistill.image" $root | nindent 8 }}
        command: [bash, -euc, umask 077; cp /secret/* /credentials/]
        resources:
          requests: {cpu: 10m, memory: 16Mi}
          limits: {memory: 32Mi}
        volumeMounts:
          - {name: secret, mountPath: /secret, readOnly: true}
          - {name: credentials, mountPath: /credentials}
    containers:
      - name: ray-worker
        {{- include "adapterdistill.image" $root | nindent 8 }}
        resources: {{- toYaml $root.Values.resources.owner | nindent 10 }}
        volumeMounts:
          - {name: config, mountPath: /config, readOnly: true}
          - {name: credentials, mountPath: /credentials, readOnly: true}
          - {name: data, mountPath: /data, readOnly: true}
          - {name: workspace, mountPath: /workspace}
          - {name: serving-store, mountPath: /serving-store}
          - {name: tmp, mountPath: /tmp}
    volumes:
      {{- include "adapterdistill.tmp" $root | nindent 6 }}
      - name: config
        configMap: {name: {{ $prefix }}onboarding}
      - name: secret
        secret: {secretName: {{ $prefix }}registry-credentials, defaultMode: 0400}
      - name: credentials
        emptyDir: {medium: Memory, sizeLimit: 1Mi}
      - name: data
        persistentVolumeClaim: {claimName: {{ $prefix }}data, readOnly: true}
      - name: workspace
        persistentVolumeClaim: {claimName: {{ $prefix }}workspace}
      - name: serving-store
        persistentVolumeClaim: {claimName: serving-store}
{{- end }}
