use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;

use super::*;

fn flags() -> Flags {
    Flags {
        id: "pod".into(),
        namespace: "k8s.io".into(),
        address: "/run/containerd/containerd.sock".into(),
        ..Flags::default()
    }
}

fn env(name: &str) -> Option<String> {
    (name == "TTRPC_ADDRESS").then(|| "/run/env.ttrpc".to_owned())
}

#[test]
fn bootstrap_params_win_over_flags_and_are_answered_in_protobuf() {
    let sent = BootstrapParams {
        instance_id: "pod".into(),
        namespace: "k8s.io".into(),
        containerd_ttrpc_address: "/run/sent.ttrpc".into(),
        socket_dir: Some("/run/s".into()),
        ..Default::default()
    };
    let params = Params::decode(&sent.write_to_bytes().unwrap(), &flags(), env).unwrap();
    assert_eq!(params.ttrpc_address, "/run/sent.ttrpc");
    assert_eq!(params.socket_dir, "/run/s");
    let reply = params.encode_reply("/run/s/x").unwrap();
    let reply = BootstrapResult::parse_from_bytes(&reply).unwrap();
    assert_eq!(
        (reply.version, reply.address.as_str()),
        (3, "unix:///run/s/x")
    );
}

#[test]
fn bare_options_are_not_taken_for_bootstrap_params() {
    let options = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: Options {
            root: "/elsewhere".into(),
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap(),
        ..Default::default()
    };
    for stdin in [options.write_to_bytes().unwrap(), vec![], vec![0xff, 1]] {
        let params = Params::decode(&stdin, &flags(), env).unwrap();
        assert_eq!(params.protocol, Protocol::Json);
        assert_eq!(params.ttrpc_address, "/run/env.ttrpc");
    }
}

#[test]
fn a_missing_ttrpc_address_is_an_error() {
    let error = Params::decode(&[], &flags(), |_| None).unwrap_err();
    assert!(error.to_string().contains("TTRPC_ADDRESS"), "{error}");
}

#[test]
fn sockets_are_named_as_containerd_names_them() {
    assert_eq!(
        socket_path(
            "/run/containerd/s/",
            "/run/containerd/containerd.sock",
            "default",
            "123"
        ),
        "/run/containerd/s/0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0"
    );
}

#[test]
fn every_form_of_reply_is_understood() {
    let wanted = Reply {
        version: 3,
        address: "unix:///s".into(),
        protocol: "ttrpc".into(),
    };
    let json = br#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#;
    assert_eq!(Reply::decode(json).unwrap(), wanted);
    let protobuf = BootstrapResult {
        version: 3,
        address: "unix:///s".into(),
        protocol: "ttrpc".into(),
        ..Default::default()
    };
    assert_eq!(
        Reply::decode(&protobuf.write_to_bytes().unwrap()).unwrap(),
        wanted
    );
    assert_eq!(Reply::decode(b"unix:///s\n").unwrap().version, 2);
    assert!(Reply::decode(b"panic: no").is_err());
}
