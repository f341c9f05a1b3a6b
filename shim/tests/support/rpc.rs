//! Calls to a shim over ttrpc, by name.

use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use serde_json::Value;
use ttrpc::context::{Context, with_duration};

/// What a call may take at most, but for those that wait.
const PATIENCE: Duration = Duration::from_secs(60);

fn patience() -> Context {
    with_duration(PATIENCE)
}

pub(crate) struct Shim(pub(crate) TaskClient);

/// What a call is about.
#[derive(Clone, Default)]
pub(crate) struct Target {
    pub(crate) id: String,
    /// Empty for the container's first process.
    pub(crate) exec_id: String,
    pub(crate) bundle: String,
    /// What exec is to run.
    pub(crate) process: Value,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
    pub(crate) checkpoint: String,
    /// What kill sends; 0 means SIGKILL.
    pub(crate) signal: u32,
}

impl Target {
    pub(crate) fn exec(&self, exec_id: &str) -> Self {
        Target {
            exec_id: exec_id.to_owned(),
            ..self.clone()
        }
    }
}

impl Shim {
    pub(crate) fn connect(socket: &str) -> Self {
        Shim(TaskClient::new(
            Client::connect(&format!("unix://{socket}")).unwrap(),
        ))
    }

    /// The container's processes, and the exec that each belongs to.
    pub(crate) fn pids(&self, id: &str) -> Vec<(u32, Option<String>)> {
        let request = api::PidsRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        let processes = self.0.pids(patience(), &request).unwrap().processes;
        let exec_id = |info: &Any| {
            assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
            ProcessDetails::parse_from_bytes(&info.value)
                .unwrap()
                .exec_id
        };
        processes
            .iter()
            .map(|process| (process.pid, process.info.as_ref().map(exec_id)))
            .collect()
    }

    /// Calls `methods` one after the other; each must succeed.
    pub(crate) fn must(&self, methods: &[&str], target: &Target) {
        for method in methods {
            if let Err(error) = self.call(method, target) {
                panic!("{method} {}/{}: {error}", target.id, target.exec_id);
            }
        }
    }

    pub(crate) fn state(&self, target: &Target) -> api::StateResponse {
        let request = api::StateRequest {
            id: target.id.clone(),
            exec_id: target.exec_id.clone(),
            ..Default::default()
        };
        self.0.state(patience(), &request).unwrap()
    }

    /// Waits for the process's end; its exit code.
    pub(crate) fn wait(&self, target: &Target) -> u32 {
        let request = api::WaitRequest {
            id: target.id.clone(),
            exec_id: target.exec_id.clone(),
            ..Default::default()
        };
        self.0.wait(patience(), &request).unwrap().exit_status
    }

    pub(crate) fn call(&self, method: &str, target: &Target) -> ttrpc::Result<()> {
        macro_rules! call {
            ($method:ident, $request:ident { $($field:ident: $value:expr),* }) => {
                call!(patience(), $method, $request { $($field: $value),* })
            };
            ($context:expr, $method:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
                let request = api::$request {
                    id: target.id.clone(),
                    $($field: $value,)*
                    ..Default::default()
                };
                self.0.$method($context, &request).map(drop)
            }};
        }
        let any = |value: Vec<u8>| {
            Some(Any {
                value,
                ..Default::default()
            })
            .into()
        };
        let exec_id = target.exec_id.clone();
        match method {
            "create" => call!(
                create,
                CreateTaskRequest {
                    bundle: target.bundle.clone(),
                    stdin: target.stdin.clone(),
                    stdout: target.stdout.clone(),
                    stderr: target.stderr.clone(),
                    terminal: target.terminal,
                    checkpoint: target.checkpoint.clone()
                }
            ),
            "start" => call!(start, StartRequest { exec_id: exec_id }),
            "state" => call!(state, StateRequest { exec_id: exec_id }),
            "pids" => call!(pids, PidsRequest {}),
            "stats" => call!(stats, StatsRequest {}),
            "connect" => call!(connect, ConnectRequest {}),
            "exec" => call!(
                exec,
                ExecProcessRequest {
                    exec_id: match exec_id.as_str() {
                        "" => "e".to_owned(),
                        _ => exec_id,
                    },
                    spec: any(target.process.to_string().into_bytes()),
                    stdin: target.stdin.clone(),
                    stdout: target.stdout.clone(),
                    stderr: target.stderr.clone(),
                    terminal: target.terminal
                }
            ),
            "checkpoint" => call!(checkpoint, CheckpointTaskRequest {}),
            "resize_pty" => call!(
                resize_pty,
                ResizePtyRequest {
                    exec_id: exec_id,
                    width: 100,
                    height: 30
                }
            ),
            "close_io" => call!(
                close_io,
                CloseIORequest {
                    exec_id: exec_id,
                    stdin: true
                }
            ),
            "bad signal" => call!(
                kill,
                KillRequest {
                    exec_id: exec_id,
                    signal: 4000
                }
            ),
            "kill" => call!(
                kill,
                KillRequest {
                    exec_id: exec_id,
                    signal: if target.signal == 0 { 9 } else { target.signal }
                }
            ),
            "pause" => call!(pause, PauseRequest {}),
            "resume" => call!(resume, ResumeRequest {}),
            "update" => call!(
                update,
                UpdateTaskRequest {
                    resources: any(br#"{"cpu":{"shares":100}}"#.to_vec())
                }
            ),
            "wait" => call!(wait, WaitRequest { exec_id: exec_id }),
            // Only whether it answers at once.
            "wait briefly" => call!(
                with_duration(Duration::from_millis(300)),
                wait,
                WaitRequest { exec_id: exec_id }
            ),
            "delete" => call!(delete, DeleteRequest { exec_id: exec_id }),
            "shutdown" => call!(shutdown, ShutdownRequest {}),
            other => panic!("no method {other}"),
        }
    }
}
