//! A port whose places are all taken: who is refused is counted and shown, and whoever is of least use makes room.

use cluster::status::Health;

use crate::support::cluster::{TestCluster, find};
use crate::support::raw::Raw;
use crate::support::{SOON, wait_for};

/// A connection to the origin that publishes `name`.
fn publisher(cluster: &TestCluster, name: &str, status: &str) -> Raw {
    Raw::dial(cluster.net.origin()).handshake().connect("live", &[]).publish(name, status)
}

#[test]
fn a_publisher_beyond_max_streams_is_told_counted_and_shown_with_the_cause() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_streams: 2 }"));
    cluster.up();
    let _taken = [1, 2].map(|n| publisher(&cluster, &format!("s{n}"), "NetStream.Publish.Start"));
    publisher(&cluster, "s3", "NetStream.Publish.BadName").expect("max_streams");
    let origin = wait_for("the refusal in status", SOON, || {
        let unit = find(&cluster.try_status()?, cluster.net.origin())?;
        if unit.health == Health::Warning { Ok(unit) } else { Err(format!("{unit:?}")) }
    });
    assert!(
        origin.note.contains("1 publishers refused: 2 streams are being published (max_streams)"),
        "{origin:?}"
    );
    assert_eq!(origin.stats.map(|stats| (stats.refused, stats.refused_publishers)), Some((1, 1)));
    cluster.run(&["status"]).expect_words(&["publishers refused", "max_streams"]);
}
