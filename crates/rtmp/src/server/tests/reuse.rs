//! One connection that does several things, at a time or one after the other.

use super::*;

fn ask(msid: u8, kind: &str, name: &str) -> Vec<u8> {
    command(8, msid.into(), kind, 0.0, &[NULL, name.into()])
}

fn video(msid: u32) -> Vec<u8> {
    message(6, VIDEO, msid, 0, b"\x17\x01")
}

fn msid_of(events: &[Event]) -> Option<u32> {
    match events {
        [Event::Media(message)] => Some(message.msid),
        [] => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_message_stream_publishes_or_plays_for_itself() {
    let mut pair = Pair::active("publish");
    let second = pair.events(&ask(2, "publish", "b"));
    assert_eq!(second, [Event::Publish { msid: 2, stream: key("live/b") }]);
    let third = pair.events(&ask(3, "play", "c"));
    assert_eq!(third, [Event::Play { msid: 3, stream: key("live/c"), length: None }]);
    let heard = pair.heard();
    assert!(heard.contains(&"2: onStatus 0 null status/NetStream.Publish.Start".to_owned()), "{heard:?}");
    assert!(heard.contains(&"3: onStatus 0 null status/NetStream.Play.Start".to_owned()), "{heard:?}");
    assert_eq!(msid_of(&pair.events(&video(1))), Some(1));
    assert_eq!(msid_of(&pair.events(&video(2))), Some(2));
    // Neither the player's nor anybody's.
    assert_eq!(msid_of(&pair.events(&video(3))), None);
    assert_eq!(msid_of(&pair.events(&video(0))), None);
    assert_eq!(pair.events(&command(8, 1, "closeStream", 0.0, &[NULL])), [Event::Unpublish { msid: 1 }]);
    assert_eq!(msid_of(&pair.events(&video(1))), None, "not the other one's");
    assert_eq!(msid_of(&pair.events(&video(2))), Some(2));
    assert_eq!(
        pair.events(&command(8, 0, "pause", 0.0, &[NULL, true.into()])),
        [Event::Pause { msid: 3, on: true }]
    );
}

#[test]
fn fc_unpublish_ends_the_stream_it_names() {
    let mut pair = Pair::active("publish");
    pair.events(&ask(2, "publish", "b?token=1"));
    let unpublish = |name: &str| command(3, 0, "FCUnpublish", 0.0, &[NULL, name.into()]);
    assert_eq!(pair.events(&unpublish("unknown")), []);
    assert_eq!(pair.events(&unpublish("b")), [Event::Unpublish { msid: 2 }]);
    assert_eq!(pair.events(&unpublish("cut?off")), [Event::Unpublish { msid: 1 }], "the only one");
    assert_eq!(pair.events(&unpublish("livestream")), []);
}

#[test]
fn a_refused_stream_leaves_the_others() {
    let mut pair = Pair::active("publish");
    pair.accept = false;
    pair.events(&ask(2, "publish", "b"));
    pair.session.reject_publish("NetStream.Publish.BadName", "taken");
    assert_eq!(pair.heard(), ["2: onStatus 0 null error/NetStream.Publish.BadName"]);
    assert_eq!(msid_of(&pair.events(&video(1))), Some(1));
    assert!(matches!(pair.events(&ask(2, "publish", "c"))[..], [Event::Publish { msid: 2, .. }]));
}

#[test]
fn a_false_or_empty_name_ends_what_the_stream_does() {
    for name in [Value::from(false), "".into(), NULL] {
        let mut pair = Pair::active("publish");
        let stop = |kind| command(8, 1, kind, 0.0, &[NULL, name.clone()]);
        assert_eq!(pair.events(&stop("publish")), [Event::Unpublish { msid: 1 }]);
        assert_eq!(pair.heard(), ["1: onStatus 0 null status/NetStream.Unpublish.Success"]);
        let mut pair = Pair::active("play");
        assert_eq!(pair.events(&stop("play")), [Event::StopPlay { msid: 1 }]);
        assert_eq!(pair.heard(), ["1: onStatus 0 null status/NetStream.Play.Stop"]);
    }
    let mut idle = Pair::connected();
    assert_eq!(idle.answer(&command(8, 1, "publish", 0.0, &[NULL, false.into()])), [""; 0]);
    assert_eq!(idle.answer(&command(8, 1, "play", 0.0, &[NULL, false.into()])), [""; 0]);
}

#[test]
fn a_player_may_zap_without_end() {
    let mut pair = Pair::connected();
    for turn in 0..100 {
        let [created] = &pair.answer(&command(3, 0, "createStream", 2.0, &[NULL]))[..] else { panic!() };
        let msid: u8 = created.rsplit(' ').next().unwrap().parse().unwrap();
        let name = format!("s{turn}");
        let asked = pair.events(&ask(msid, "play", &name));
        assert!(matches!(asked[..], [Event::Play { .. }]), "{turn}: {asked:?}");
        // Half of them are not deleted, only closed.
        let end = match turn % 2 {
            0 => command(8, msid.into(), "closeStream", 0.0, &[NULL]),
            _ => command(3, 0, "deleteStream", 0.0, &[NULL, f64::from(msid).into()]),
        };
        assert_eq!(pair.events(&end), [Event::StopPlay { msid: msid.into() }]);
        pair.heard();
    }
}

#[test]
fn a_player_that_zaps_and_leaves_its_streams_as_they_are_loses_the_oldest() {
    let mut pair = Pair::connected();
    let most = MAX_ACTIVE as u8;
    for msid in 1..=most {
        assert!(matches!(pair.events(&ask(msid, "play", "a"))[..], [Event::Play { .. }]));
    }
    pair.heard();
    for (msid, oldest) in (most + 1..=100).zip(1..) {
        let events = pair.events(&ask(msid, "play", "a"));
        assert!(
            matches!(events[..], [Event::StopPlay { msid }, Event::Play { .. }] if msid == oldest),
            "{events:?}"
        );
        assert_eq!(pair.heard()[0], format!("{oldest}: onStatus 0 null status/NetStream.Play.Stop"));
    }
    // A name that is none costs nobody anything.
    assert_eq!(pair.events(&ask(101, "play", "?")), [Event::Refused]);
}

#[test]
fn what_a_player_does_not_want_it_may_say_before_it_plays() {
    let mut pair = Pair::connected();
    let say = |what, on: bool| command(8, 1, what, 0.0, &[NULL, on.into()]);
    assert_eq!(pair.events(&say("receiveVideo", false)), []);
    let off = Event::ReceiveVideo { msid: 1, on: false };
    for _ in 0..2 {
        let events = pair.events(&ask(1, "play", "a"));
        assert!(matches!(&events[..], [Event::Play { .. }, wants] if *wants == off), "{events:?}");
    }
    assert_eq!(pair.events(&say("receiveVideo", true)), [Event::ReceiveVideo { msid: 1, on: true }]);
    assert!(matches!(pair.events(&ask(1, "play", "a"))[..], [Event::Play { .. }]));
    // Nothing is left of a stream that is deleted, and not much is remembered at all.
    pair.events(&say("receiveAudio", false));
    pair.events(&command(3, 0, "deleteStream", 0.0, &[NULL, 1.0.into()]));
    assert!(matches!(pair.events(&ask(1, "play", "a"))[..], [Event::Play { .. }]));
    let held = pair.session.held();
    (2..200)
        .for_each(|msid| drop(pair.events(&command(8, msid, "receiveAudio", 0.0, &[NULL, false.into()]))));
    assert!(pair.session.held() <= held + 2 * 12 * MAX_ACTIVE);
}

#[test]
fn another_play_on_the_same_stream_takes_its_place() {
    let mut pair = Pair::active("play");
    let again = pair.events(&ask(1, "play", "b"));
    assert_eq!(again, [Event::Play { msid: 1, stream: key("live/b"), length: None }]);
    let append = command(8, 1, "play", 0.0, &[NULL, "c".into(), (-2.0).into(), (-1.0).into(), false.into()]);
    pair.heard();
    pair.events(&append);
    let heard = pair.heard();
    assert!(!heard.iter().any(|line| line.contains("Play.Reset")), "{heard:?}");
    assert_eq!(
        pair.events(&command(3, 0, "deleteStream", 0.0, &[NULL, 1.0.into()])),
        [Event::StopPlay { msid: 1 }]
    );
}

#[test]
fn the_length_of_a_play_is_in_seconds_or_in_milliseconds_as_its_client_means_it() {
    let length = |start: f64, length: f64| {
        let play = command(8, 1, "play", 0.0, &[NULL, "s".into(), start.into(), length.into()]);
        match Pair::connected().events(&play)[..] {
            [Event::Play { length, .. }] => length,
            ref other => panic!("{other:?}"),
        }
    };
    // As the specification has it, and as most clients do.
    assert_eq!(length(-2.0, 10.0), Some(10_000));
    assert_eq!(length(-1.0, 3_600.0), Some(3_600_000));
    assert_eq!(length(-2_000.0, 10_000.0), Some(10_000));
    assert_eq!(length(0.0, 5_000.0), Some(5_000));
    // Nobody wants 10 ms.
    assert_eq!(length(-2_000.0, 10.0), Some(10_000));
    assert_eq!(length(0.0, 2.5), Some(2_500));
    for all in [-1.0, -1_000.0, 0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(length(-2.0, all), None);
    }
    assert_eq!(length(-2.0, 1e300), Some(u64::MAX));
}

#[test]
fn a_player_is_told_why_nothing_more_comes_and_may_play_again() {
    let mut pair = Pair::active("play");
    pair.session.end_play(1, PlayEnd::Unpublished);
    assert_eq!(
        pair.heard(),
        [
            "1: onStatus 0 null status/NetStream.Play.UnpublishNotify",
            "UserControl 1 1",
            "1: onStatus 0 null status/NetStream.Play.Stop",
        ]
    );
    pair.events(&ask(1, "play", "b"));
    pair.heard();
    pair.session.end_play(1, PlayEnd::Complete);
    assert_eq!(
        pair.heard(),
        [
            "1: onPlayStatus status/NetStream.Play.Complete",
            "UserControl 1 1",
            "1: onStatus 0 null status/NetStream.Play.Stop",
        ]
    );
    assert_eq!(pair.events(&command(8, 1, "closeStream", 0.0, &[NULL])), [], "it is over already");
}

#[test]
fn a_part_of_a_large_frame_is_media_on_its_way() {
    let mut pair = Pair::active("publish");
    let frame = media(6, VIDEO, 0, &[0x17; 1_000]).0;
    assert!(!pair.session.is_receiving_media());
    assert_eq!(pair.events(&frame[..300]), []);
    assert!(pair.session.is_receiving_media());
    assert_eq!(pair.events(&frame[300..]).len(), 1);
    assert!(!pair.session.is_receiving_media());
}
