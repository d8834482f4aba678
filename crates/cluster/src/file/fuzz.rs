//! Fuzz bodies: any bytes may come in, none may panic, and what a body asserts must hold for all.

use super::{ClusterFile, tree};
use crate::spec::WorkerSpec;

/// Longest line of a message, characters: a title repeats a few values of the file, cut, and help names keys.
const MAX_LINE: usize = 600;

/// A refusal is a message that a terminal can show; of a cluster that is taken, every worker can read its config.
pub fn cluster_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = ClusterFile::new("c.yaml".into(), text.into());
    match file.cluster(&|_| Ok(vec![[10, 0, 0, 1].into()])) {
        Ok(cluster) => {
            for port in cluster.ports() {
                let spec = cluster.worker_spec(port, "/secret".into());
                assert_eq!(tree::from_str::<WorkerSpec>(&spec.to_file_text()), Ok(spec));
            }
        }
        Err(error) => {
            for line in error.to_string().lines() {
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                assert!(line.chars().count() <= MAX_LINE, "{line}");
            }
        }
    }
}
