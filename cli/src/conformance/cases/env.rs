//! Environment and arguments.

use serde_json::{Value, json};

use crate::conformance::case::{Case, Verdict, case};
use crate::conformance::test::{Test, With};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "env.literal",
            literal,
            "A variable of the Pod's spec is set in the container, empty, spaced and non-ASCII values included.",
            "tasks/inject-data-application/define-environment-variable-container/"
        ),
        case!(
            "env.config-map",
            config_map,
            "A variable takes its value from a key of a ConfigMap.",
            "tasks/configure-pod-container/configure-pod-configmap/"
        ),
        case!(
            "env.secret",
            secret,
            "A variable takes its value from a key of a Secret, decoded.",
            "tasks/inject-data-application/distribute-credentials-secure/"
        ),
        case!(
            "env.optional-reference",
            optional,
            "A reference to a key that does not exist leaves the variable unset when it is optional.",
            "tasks/configure-pod-container/configure-pod-configmap/"
        ),
        case!(
            "env.field-reference",
            fields,
            "Variables take the Pod's name, namespace, labels, addresses and service account from its fields.",
            "tasks/inject-data-application/environment-variable-expose-pod-information/"
        ),
        case!(
            "env.resource-reference",
            resources,
            "Variables take the container's own limits and requests.",
            "tasks/inject-data-application/environment-variable-expose-pod-information/"
        ),
        case!(
            "env.from",
            env_from,
            "All keys of a ConfigMap and a Secret become variables, with a prefix where one is given.",
            "tasks/configure-pod-container/configure-pod-configmap/"
        ),
        case!(
            "env.precedence",
            precedence,
            "Of two sources of a variable the container's own list wins over envFrom.",
            "tasks/inject-data-application/define-environment-variable-container/"
        ),
        case!(
            "env.dependent",
            dependent,
            "A variable's value refers to earlier ones with $(NAME); $$ keeps a dollar sign.",
            "tasks/inject-data-application/define-interdependent-environment-variables/"
        ),
        case!(
            "env.expansion-in-arguments",
            expansion,
            "$(NAME) in arguments is replaced by the variable; an unknown name stays as it is.",
            "tasks/inject-data-application/define-command-argument-container/"
        ),
        case!(
            "env.arguments",
            arguments,
            "Arguments reach the program unchanged: empty, spaced, quoted and non-ASCII ones.",
            "tasks/inject-data-application/define-command-argument-container/"
        ),
        case!(
            "env.image-default",
            image_default,
            "Arguments alone keep the image's entrypoint, and the image's PATH is set.",
            "tasks/inject-data-application/define-command-argument-container/"
        ),
        case!(
            "env.services",
            services,
            "Variables tell the address of each Service that was there before the Pod.",
            "concepts/services-networking/service/"
        ),
        case!(
            "env.working-directory",
            working_directory,
            "The container starts in the working directory of its spec, and relative paths begin there.",
            "reference/kubernetes-api/workload-resources/pod-v1/"
        ),
        case!(
            "env.separate",
            separate,
            "A container's variables are not its neighbour's.",
            "concepts/workloads/pods/"
        ),
    ]
}

/// Both containers print those variables.
fn print(test: &Test, names: &[&str], more: Value) -> Value {
    let words: Vec<&str> = ["env"].iter().chain(names).copied().collect();
    json!({ "containers": test.both(|half| test.command(half, &words).with(more.clone())) })
}

async fn literal(test: Test) -> Verdict {
    let variables = json!([
        { "name": "PLAIN", "value": "value" },
        { "name": "EMPTY", "value": "" },
        { "name": "SPACED", "value": " two  words " },
        { "name": "UNICODE", "value": "grüße 世界" },
        { "name": "EQUALS", "value": "a=b=c" },
        { "name": "with.dots-and-dashes", "value": "yes" },
    ]);
    let names = [
        "PLAIN",
        "EMPTY",
        "SPACED",
        "UNICODE",
        "EQUALS",
        "with.dots-and-dashes",
        "NOT_THERE",
    ];
    let pod = test
        .pod(print(&test, &names, json!({ "env": variables })))
        .await?;
    pod.both_print("PLAIN=value\nEMPTY=\nSPACED= two  words \nUNICODE=grüße 世界\nEQUALS=a=b=c\nwith.dots-and-dashes=yes\nNOT_THERE is not set").await
}

async fn config_map(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "colour": "blue" } }))
        .await?;
    let reference = json!({ "configMapKeyRef": { "name": test.name(), "key": "colour" } });
    let variables = json!([{ "name": "COLOUR", "valueFrom": reference }]);
    let pod = test
        .pod(print(&test, &["COLOUR"], json!({ "env": variables })))
        .await?;
    pod.both_print("COLOUR=blue").await
}

async fn secret(test: Test) -> Verdict {
    test.create(
        "Secret",
        json!({ "stringData": { "password": "open sesame" } }),
    )
    .await?;
    let reference = json!({ "secretKeyRef": { "name": test.name(), "key": "password" } });
    let variables = json!([{ "name": "PASSWORD", "valueFrom": reference }]);
    let pod = test
        .pod(print(&test, &["PASSWORD"], json!({ "env": variables })))
        .await?;
    pod.both_print("PASSWORD=open sesame").await
}

async fn optional(test: Test) -> Verdict {
    let reference =
        json!({ "configMapKeyRef": { "name": "nobody-made-it", "key": "k", "optional": true } });
    let variables =
        json!([{ "name": "MAYBE", "valueFrom": reference }, { "name": "SURE", "value": "yes" }]);
    let pod = test
        .pod(print(
            &test,
            &["MAYBE", "SURE"],
            json!({ "env": variables }),
        ))
        .await?;
    pod.both_print("MAYBE is not set\nSURE=yes").await
}

async fn fields(test: Test) -> Verdict {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let variables = json!([
        field("POD", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("LABEL", "metadata.labels['colour']"),
        field("ANNOTATION", "metadata.annotations['note']"),
        field("ACCOUNT", "spec.serviceAccountName"),
        field("ADDRESS", "status.podIP"),
    ]);
    let names = [
        "POD",
        "NAMESPACE",
        "LABEL",
        "ANNOTATION",
        "ACCOUNT",
        "ADDRESS",
    ];
    let spec = test.spec(print(&test, &names, json!({ "env": variables })));
    let metadata = json!({ "labels": { "colour": "red" }, "annotations": { "note": "a b" } });
    let pod = test
        .pod_from(json!({ "metadata": metadata, "spec": spec }))
        .await?;
    let address = pod.address().await?;
    let namespace = &test.namespace().name;
    pod.both_print(&format!(
        "POD={}\nNAMESPACE={namespace}\nLABEL=red\nANNOTATION=a b\nACCOUNT=default\nADDRESS={address}",
        test.name()
    ))
    .await
}

async fn resources(test: Test) -> Verdict {
    let field = |name: &str, resource: &str, divisor: &str| json!({ "name": name, "valueFrom": { "resourceFieldRef": { "resource": resource, "divisor": divisor } } });
    let more = json!({
        "env": [
            field("LIMIT", "limits.memory", "1Mi"),
            field("REQUEST", "requests.memory", "1Mi"),
            field("CPU", "requests.cpu", "1m"),
        ],
        "resources": { "requests": { "memory": "24Mi", "cpu": "15m" }, "limits": { "memory": "48Mi" } },
    });
    let pod = test
        .pod(print(&test, &["LIMIT", "REQUEST", "CPU"], more))
        .await?;
    pod.both_print("LIMIT=48\nREQUEST=24\nCPU=15").await
}

async fn env_from(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "ONE": "1", "TWO": "2" } }))
        .await?;
    test.create("Secret", json!({ "stringData": { "THREE": "3" } }))
        .await?;
    let more = json!({ "envFrom": [
        { "configMapRef": { "name": test.name() } },
        { "prefix": "S_", "secretRef": { "name": test.name() } },
    ] });
    let pod = test
        .pod(print(&test, &["ONE", "TWO", "S_THREE", "THREE"], more))
        .await?;
    pod.both_print("ONE=1\nTWO=2\nS_THREE=3\nTHREE is not set")
        .await
}

async fn precedence(test: Test) -> Verdict {
    test.create(
        "ConfigMap",
        json!({ "data": { "A": "from the map", "B": "from the map" } }),
    )
    .await?;
    let more = json!({
        "envFrom": [{ "configMapRef": { "name": test.name() } }],
        "env": [{ "name": "A", "value": "from the list" }],
    });
    let pod = test.pod(print(&test, &["A", "B"], more)).await?;
    pod.both_print("A=from the list\nB=from the map").await
}

async fn dependent(test: Test) -> Verdict {
    let variables = json!([
        { "name": "HOST", "value": "example.com" },
        { "name": "URL", "value": "http://$(HOST)/" },
        { "name": "KEPT", "value": "$$(HOST)" },
        { "name": "UNKNOWN", "value": "$(NOBODY)" },
    ]);
    let pod = test
        .pod(print(
            &test,
            &["URL", "KEPT", "UNKNOWN"],
            json!({ "env": variables }),
        ))
        .await?;
    pod.both_print("URL=http://example.com/\nKEPT=$(HOST)\nUNKNOWN=$(NOBODY)")
        .await
}

async fn expansion(test: Test) -> Verdict {
    let variables = json!([{ "name": "WHO", "value": "the world" }]);
    let words = ["args", "hello $(WHO)", "$$(WHO)", "$(NOBODY)"];
    let containers = test.both(|half| test.command(half, &words).with(json!({ "env": variables })));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_print("\"hello the world\"\n\"$(WHO)\"\n\"$(NOBODY)\"")
        .await
}

async fn arguments(test: Test) -> Verdict {
    let words = [
        "args",
        "plain",
        "",
        "two words",
        "\"quoted\"",
        "--flag=1",
        "世界",
        "a\nb",
    ];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    pod.both_print(
        "\"plain\"\n\"\"\n\"two words\"\n\"\\\"quoted\\\"\"\n\"--flag=1\"\n\"世界\"\n\"a\\nb\"",
    )
    .await
}

/// The images' entrypoint is the service, whatever arguments a container has.
async fn image_default(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.both_run().await?;
    test.each(async |half| {
        let path = pod.get_when_up(half, "/env?name=PATH").await?;
        crate::conformance::test::expect_in("PATH", &path, "/bin")
    })
    .await
}

async fn services(test: Test) -> Verdict {
    let ports = json!([{ "port": 4321 }]);
    let service = test
        .create(
            "Service",
            json!({ "spec": { "selector": test.labels(), "ports": ports } }),
        )
        .await?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let prefix = test.name().replace('-', "_").to_uppercase();
    let (host, port) = (
        format!("{prefix}_SERVICE_HOST"),
        format!("{prefix}_SERVICE_PORT"),
    );
    let expected = format!("{host}={address}\n{port}=4321");
    // kubelet hears of a Service a little later than we do; a Pod started before lacks it.
    let mut attempt = 0;
    loop {
        attempt += 1;
        let spec = print(&test, &[&host, &port], json!({}));
        let name = format!("{}-{attempt}", test.name());
        let pod = test
            .pod_as(&name, spec.with(json!({ "enableServiceLinks": true })))
            .await?;
        match pod.both_print(&expected).await {
            Err(error) if attempt == 3 => return Err(error),
            Err(_) => pod.delete(None).await?,
            Ok(()) => return Ok(()),
        }
    }
}

async fn working_directory(test: Test) -> Verdict {
    test.create("ConfigMap", json!({ "data": { "file": "found" } }))
        .await?;
    let more = json!({ "workingDir": "/data", "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let pod = test
        .pod(json!({
            "containers": test.both(|half| test.command(half, &["cat", "file"]).with(more.clone())),
            "volumes": [{ "name": "data", "configMap": { "name": test.name() } }],
        }))
        .await?;
    pod.both_print("found").await
}

async fn separate(test: Test) -> Verdict {
    let containers = test.both(|half| {
        let own = json!([{ "name": half.as_str().to_uppercase(), "value": "mine" }]);
        test.command(half, &["env", "WASM", "LINUX"])
            .with(json!({ "env": own }))
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.prints("wasm", "WASM=mine\nLINUX is not set").await?;
    pod.prints("linux", "WASM is not set\nLINUX=mine").await
}
