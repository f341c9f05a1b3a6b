//! Calls to a shim over ttrpc, by name.

use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_sync::{Client, TaskClient};
use ttrpc::context::with_duration;

pub(crate) struct Shim(TaskClient);

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
        let context = with_duration(Duration::from_secs(10));
        let processes = self.0.pids(context, &request).unwrap().processes;
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

    /// The code that `method` fails with for container `id`, None when it succeeds.
    pub(crate) fn code(&self, method: &str, id: &str) -> Option<ttrpc::Code> {
        macro_rules! call {
            ($method:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
                let request = api::$request {
                    id: id.to_owned(),
                    $($field: $value,)*
                    ..Default::default()
                };
                self.0.$method(with_duration(Duration::from_secs(10)), &request).err()
            }};
        }
        let error = match method {
            "create" => call!(
                create,
                CreateTaskRequest {
                    bundle: "/gone".into()
                }
            ),
            "start" => call!(start, StartRequest {}),
            "state" => call!(state, StateRequest {}),
            "pids" => call!(pids, PidsRequest {}),
            "stats" => call!(stats, StatsRequest {}),
            "connect" => call!(connect, ConnectRequest {}),
            "exec" => call!(
                exec,
                ExecProcessRequest {
                    exec_id: "e".into()
                }
            ),
            "checkpoint" => call!(checkpoint, CheckpointTaskRequest {}),
            "resize_pty" => call!(resize_pty, ResizePtyRequest {}),
            "close_io" => call!(close_io, CloseIORequest { stdin: true }),
            "kill" => call!(kill, KillRequest { signal: 15 }),
            "bad signal" => call!(kill, KillRequest { signal: 4000 }),
            "pause" => call!(pause, PauseRequest {}),
            "resume" => call!(resume, ResumeRequest {}),
            "update" => {
                let resources = Any {
                    value: br#"{"cpu":{"shares":100}}"#.to_vec(),
                    ..Default::default()
                };
                call!(
                    update,
                    UpdateTaskRequest {
                        resources: Some(resources).into()
                    }
                )
            }
            "wait" => call!(wait, WaitRequest {}),
            "delete" => call!(delete, DeleteRequest {}),
            "shutdown" => call!(shutdown, ShutdownRequest {}),
            other => panic!("no method {other}"),
        };
        error.map(|error| match error {
            ttrpc::Error::RpcStatus(status) => status.code(),
            other => panic!("{method}: {other}"),
        })
    }
}
