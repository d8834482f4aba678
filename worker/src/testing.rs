//! What several unit tests start from.

use cluster::{Role, UnitId, WorkerOptions, WorkerSpec};

/// A port that forwards to nobody.
pub(crate) fn spec(role: Role) -> WorkerSpec {
    WorkerSpec {
        id: UnitId::worker(role, "127.0.0.1", 1935),
        cluster: "test".to_owned(),
        role,
        host: "127.0.0.1".to_owned(),
        listen: ([127, 0, 0, 1], 1935).into(),
        address: None,
        options: WorkerOptions::default(),
        sources: Vec::new(),
        forward: Vec::new(),
        outbound: Vec::new(),
        drain: cluster::Drain::No,
        secret_file: "/none".into(),
    }
}
