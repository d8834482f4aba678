//! What a status looks like.

use cluster::UnitId;
use cluster::status::Program;

use super::*;

fn guide(state: &str) -> Status {
    let unit = |id: &str, role: &str, host: &str| {
        serde_json::json!({
            "id": id, "role": role, "host": host, "port": 1935, "state": state, "health": "passing", "note": "",
            "pid": 1_234_567, "uptime_ms": 754_000, "restarts": 0, "last_exit": null, "stats": null,
            "stats_age_ms": null, "config": "", "log": "",
        })
    };
    let forward = serde_json::json!({
        "target": { "id": "edge-192.168.1.6-1935", "host": "192.168.1.6", "port": 1935 },
        "state": "live", "lag_ms": 12, "sent_messages": 100, "reconnects": 1, "last_error": "connection refused",
    });
    let stream = serde_json::json!({
        "unit": "edge", "url": "rtmp://192.168.1.6:1935/live/livestream", "host": "192.168.1.6", "port": 1935,
        "stream": "live/livestream", "publishing": true, "connections": 10_240, "bitrate_bps": 9_285_000,
        "video_codec": "h264", "audio_codec": "aac", "last_frame_age_ms": 40, "forwards": [forward],
    });
    let document = serde_json::json!({
        "schema": "srsctl/status/v1", "cluster": "live", "supervisor_pid": 1_234_567,
        "supervisor_uptime_ms": 754_000, "file": "",
        "units": [unit("origin", "origin", "127.0.0.5"), unit("edge", "edge", "127.0.0.6")],
        "streams": [stream],
    });
    serde_json::from_value(document).unwrap()
}

#[test]
fn a_status_is_a_summary_and_tables() {
    snapbox::assert_data_eq!(
        status(&guide("running"), Paper::PLAIN),
        snapbox::str![[r#"
cluster live  ready: origin 1/1 edges 1/1
players 0  supervisor pid 1234567 up 12m34s

HOST      ROLE   PORT STATE   HEALTH  UPTIME RESTARTS CONN     PID
127.0.0.5 origin 1935 running passing 12m34s        0    - 1234567
127.0.0.6 edge   1935 running passing 12m34s        0    - 1234567

URL                                      CONN KBIT/S CODEC    FWD LAST FRAME
rtmp://192.168.1.6:1935/live/livestream 10240   9285 h264+aac 1/1 40ms ago

"#]]
    );
}

#[test]
fn a_machine_whose_clock_is_off_by_more_than_a_second_says_so() {
    let row = |clock_skew_ms| MachineRow {
        host: "192.168.1.6".to_owned(),
        hosts: vec!["192.168.1.6".to_owned()],
        state: "supervised",
        reason: None,
        age_ms: None,
        clock_skew_ms,
        version: Some("0.1.0".to_owned()),
        supervisor_pid: Some(12),
        supervisor_uptime_ms: Some(754_000),
    };
    let rows = [None, Some(1_000), Some(-1_000), Some(1_001), Some(-90_000)].map(row);
    let shown = several(&guide("running"), &rows, Paper::PLAIN);
    let clocks = shown.lines().filter(|line| line.starts_with("192.168.1.6 supervised"));
    let clocks: Vec<_> = clocks.filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(clocks, ["-", "-", "-", "+1s", "-1m30s"], "{shown}");
}

#[test]
fn a_status_fits_80_columns_whatever_streams_and_hosts_are_called() {
    let mut guide = guide("backoff");
    guide.units[1].host = "2001:db8:1111:2222:3333:4444:5555:6666".into();
    guide.streams[0].url.push_str(&"\u{202e}直\n".repeat(83));
    guide.streams[0].stream.push_str(&"x".repeat(240));
    guide.units[1].note = format!("live/{}", "x".repeat(240));
    let text = status(&guide, Paper::PLAIN);
    let (notes, tables): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("edge: "));
    assert!(tables.iter().all(|line| text::width(line) <= 80), "{text}");
    assert_eq!(notes.iter().map(|line| text::width(line)).collect::<Vec<_>>(), ["edge: ".len() + 80]);
    assert_eq!(text::clean_lines(&text), text);
}

#[test]
fn ports_that_run_another_program_than_a_start_would_are_told_of_and_how_they_all_run_one() {
    let mut guide = guide("running");
    let told = |guide: &Status| {
        let text = status(guide, Paper::PLAIN);
        text.lines().filter(|line| line.contains("srsctl")).map(str::to_owned).collect::<Vec<_>>()
    };
    let program = |path: &str, replaced, next| Some(Program { path: path.to_owned(), replaced, next });
    guide.next_program = Some("/usr/bin/srsctl".to_owned());
    for unit in &mut guide.units {
        unit.version = Some("0.1.0".to_owned());
        unit.program = program("/usr/bin/srsctl", false, true);
    }
    assert_eq!(told(&guide), [""; 0]);
    guide.units[1].program = program("/new/srsctl", false, false);
    guide.units[1].version = Some("0.2.0".to_owned());
    assert_eq!(
        told(&guide),
        [
            "edge runs srsctl 0.2.0 from /new/srsctl",
            "a start, as the other port, runs srsctl 0.1.0 from /usr/bin/srsctl: srsctl upgrade --bin /usr/bin/srsctl has all ports run it",
        ]
    );
    for unit in &mut guide.units {
        unit.version = Some("0.1.0".to_owned());
        unit.program = program("/usr/bin/srsctl", true, false);
    }
    assert_eq!(
        told(&guide),
        [
            "all 2 ports run srsctl 0.1.0 from /usr/bin/srsctl, which has been replaced or removed since",
            "a start runs /usr/bin/srsctl: srsctl upgrade --bin /usr/bin/srsctl has all ports run it",
        ]
    );
    guide.busy = Some("it gives ports another program (for 3 s)".to_owned());
    assert_eq!(told(&guide).len(), 1, "no advice while it is busy");
    assert!(
        status(&guide, Paper::PLAIN)
            .contains("\nthe supervisor is busy: it gives ports another program (for 3 s)\n")
    );
    guide.busy = None;
    guide.next_program_removed = true;
    assert_eq!(told(&guide)[1], "a start runs /usr/bin/srsctl, whose file has been removed");
}

#[test]
fn a_target_that_streams_do_not_reach_is_one_line_with_its_reason() {
    let mut guide = guide("running");
    guide.streams[0].forwards[0].state = ForwardState::Backoff;
    guide.streams.push(StreamRow { stream: "live/other".into(), ..guide.streams[0].clone() });
    let text = status(&guide, Paper::PLAIN);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("forward")).collect();
    assert_eq!(
        lines,
        ["forward to 192.168.1.6:1935: backoff: live/livestream and 1 more: connection refused"]
    );
    assert!(text.contains(" 0/1 "), "{text}");
}

#[test]
fn targets_beyond_the_edges_have_lines_of_their_own_and_no_part_in_those_of_the_edges() {
    let mut guide = guide("running");
    let beyond = |name: &str, state, error: Option<&str>| {
        let mut it = guide.streams[0].forwards[0].clone();
        it.target.id = serde_json::from_value(format!("out:{name}").into()).unwrap();
        it.url = Some(format!("rtmp://{name}/live2/{{key}}"));
        (it.state, it.last_error) = (state, error.map(str::to_owned));
        it
    };
    let failed = Some("the server refused: NetStream.Publish.BadName (taken)");
    let all =
        [beyond("platform", ForwardState::Backoff, failed), beyond("backup", ForwardState::Live, failed)];
    guide.streams[0].forwards.extend(all);
    guide.streams.push(StreamRow { stream: "live/other".into(), ..guide.streams[0].clone() });
    let text = status(&guide, Paper::PLAIN);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("forward")).collect();
    assert_eq!(
        lines,
        [
            "forward to backup (rtmp://backup/live2/{key}): live: live/livestream and 1 more, 12ms behind",
            "forward to platform (rtmp://platform/live2/{key}): backoff: live/livestream and 1 more: \
             the server refused: NetStream.Publish.BadName (taken)",
        ]
    );
    assert!(text.contains(" 1/1 "), "{text}");
    assert_eq!(exit_code(&guide), 0);
}

#[test]
fn on_a_terminal_what_is_wrong_has_a_colour() {
    let paper = Paper { has_colour: true, ..Paper::PLAIN };
    assert!(!status(&guide("running"), paper).contains('\u{1b}'));
    let text = status(&guide("flapping"), paper);
    assert!(
        text.contains("\u{1b}[31mNOT READY\u{1b}[0m") && text.contains("\u{1b}[31mflapping\u{1b}[0m"),
        "{text}"
    );
}

#[test]
fn the_first_line_says_whether_all_is_ready() {
    assert!(
        status(&guide("running"), Paper::PLAIN).starts_with("cluster live  ready: origin 1/1 edges 1/1\n")
    );
    assert!(
        status(&guide("backoff"), Paper::PLAIN)
            .starts_with("cluster live  NOT READY: origin 0/1 edges 0/1\n")
    );
}

#[test]
fn warnings_are_counted_in_the_first_line_and_those_of_the_whole_cluster_stand_below_it() {
    let mut guide = guide("running");
    guide.units[0].health = Health::Warning;
    let text = status(&guide, Paper::PLAIN);
    assert!(text.starts_with("cluster live  ready, 1 warning: origin 1/1 edges 1/1\n"), "{text}");
    guide.warnings.push("/var: No space left on device".into());
    let text = status(&guide, Paper::PLAIN);
    assert!(text.starts_with("cluster live  ready, 2 warnings: origin 1/1"), "{text}");
    assert_eq!(text.lines().nth(2), Some("WARNING: /var: No space left on device"));
    assert_eq!(exit_code(&guide), 0);
}

#[test]
fn what_a_killed_supervisor_left_is_a_table() {
    let left = [
        Remnant { id: UnitId::worker(Role::Origin, "127.0.0.5", 1935), pid: Some(11), is_alive: true },
        Remnant { id: UnitId::encoder(), pid: None, is_alive: false },
    ];
    snapbox::assert_data_eq!(
        remnants(&left, Paper::PLAIN),
        snapbox::str![[r#"
HOST      ROLE    PORT PID PROCESS
127.0.0.5 origin  1935  11 alive
-         encoder    -   - dead

"#]]
    );
}

#[test]
fn a_short_delay_has_a_decimal() {
    let shown = [400, 9_940, 12_300].map(|us| delay(Duration::from_micros(us)));
    assert_eq!(shown, ["0.4 ms", "9.9 ms", "12 ms"]);
}

#[test]
fn a_port_that_drains_says_who_is_left_and_is_no_part_of_what_is_ready() {
    use cluster::status::Draining;
    let mut guide = guide("running");
    let edge = guide.units.pop().unwrap();
    let draining = Draining { left_ms: Some(24_100), players: Some(2), encoders: Some(0), moves: false };
    let note = draining.to_string();
    let leaving =
        UnitStatus { state: UnitState::Draining, draining: Some(draining), port: 1936, note, ..edge.clone() };
    guide.units.extend([edge, leaving]);
    let text = status(&guide, Paper::PLAIN);
    snapbox::assert_data_eq!(
        text.split("\n\nURL").next().unwrap(),
        snapbox::str![[r#"
cluster live  ready: origin 1/1 edges 1/1; draining 1
players 0  supervisor pid 1234567 up 12m34s

HOST      ROLE   PORT STATE    HEALTH  UPTIME RESTARTS CONN     PID
127.0.0.5 origin 1935 running  passing 12m34s        0    - 1234567
127.0.0.6 edge   1935 running  passing 12m34s        0    - 1234567
127.0.0.6 edge   1936 draining passing 12m34s        0    - 1234567
edge: takes nobody any more, left: 2 players; it is closed in 25 s
"#]]
    );
    assert_eq!(exit_code(&guide), 0);
    let json = serde_json::to_value(&guide.units[2]).unwrap();
    let document = serde_json::json!({ "left_ms": 24_100, "players": 2, "encoders": 0, "moves": false });
    assert_eq!((&json["state"], &json["draining"]), (&"draining".into(), &document));
    assert!(several(&guide, &[], Paper::PLAIN).contains("; draining 1"));
}
