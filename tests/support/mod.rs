//! What the tests share: a network of their own, the real binary, real clients, and what they recorded.

pub mod clients;
pub mod cluster;
pub mod debugger;
pub mod flv;
pub mod guide;
pub mod hosts;
pub mod machine;
pub mod namespace;
pub mod net;
pub mod pictures;
pub mod raw;
pub mod rml;
pub mod starved;
pub mod swarm;
pub mod system;
pub mod viewers;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that ought to happen, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(45);

/// The stream of the guide.
pub const STREAM: &str = "live/livestream";

/// Round time of the test card, ms.
pub const CARD_MS: u32 = 16_000;

/// The test card's file.
pub fn card_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/encoder/assets/test-card.flv")
}

/// The tags of the test card.
pub fn card() -> Vec<flv::Tag> {
    flv::read(&card_file())
}

/// The test card as a publisher sends it that loops.
pub fn looped_card() -> flv::Source {
    flv::Source::looped(&card(), CARD_MS)
}

/// Waits until `probe` gives a value; its `Err` says what is still missing, and is part of the failure.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(_) if start.elapsed() < limit => thread::sleep(Duration::from_millis(50)),
            Err(last) => panic!("waited {:.1} s for {what}: {last}", start.elapsed().as_secs_f64()),
        }
    }
}

/// [`wait_for`] a condition.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || if condition() { Ok(()) } else { Err("not yet".to_owned()) });
}
