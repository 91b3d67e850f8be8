//! For tests/fuzz: all that containerd sends, up to where something would be done.

use prost::Message;

use super::messages::*;
use super::{bootstrap, options, rootfs, streams, ttrpc};

pub fn fuzz(bytes: &[u8]) {
    for request in ttrpc::requests(bytes) {
        payload(&request.method, &request.payload);
    }
    bootstrap::fuzz(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        options::fuzz(text);
        streams::fuzz(text);
    }
}

fn payload(method: &str, payload: &[u8]) {
    match method {
        "Create" => {
            let Ok(request) = CreateRequest::decode(payload) else { return };
            again(&request);
            request.rootfs.iter().for_each(rootfs::fuzz);
            streams::fuzz(&request.stdout);
            if let Some(options) = request.options.filter(|options| options.type_url.ends_with(options::RUNC)) {
                let _ = options::read(&options);
            }
        }
        "Exec" => {
            let Ok(request) = ExecRequest::decode(payload) else { return };
            again(&request);
            let document = request.spec.map(|spec| spec.value).unwrap_or_default();
            let _ = crate::library::ExecOptions::from_json(document);
        }
        "Update" => {
            let Ok(request) = UpdateRequest::decode(payload) else { return };
            let text = request.resources.map(|resources| resources.value).unwrap_or_default();
            let _ = crate::spec::parse::<crate::spec::Resources>(&text);
        }
        "Checkpoint" => {
            let Ok(request) = CheckpointRequest::decode(payload) else { return };
            let _ = request.options.map(|options| CheckpointOptions::decode(&*options.value));
        }
        "Kill" => drop(KillRequest::decode(payload).map(|request| again(&request))),
        "ResizePty" => drop(ResizeRequest::decode(payload).map(|request| again(&request))),
        "CloseIO" => drop(CloseRequest::decode(payload).map(|request| again(&request))),
        _ => drop(ProcessRequest::decode(payload).map(|request| again(&request))),
    }
}

/// What was understood, and is written again, says the same.
fn again<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M) {
    assert_eq!(M::decode(&*message.encode_to_vec()).as_ref(), Ok(message));
}
