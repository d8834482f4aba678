//! Sessions that are moved to another process.

use super::*;
use crate::chunk::ReadError;
use crate::fuzz::tests::bytes;
use proptest::prelude::*;

/// What comes of a session.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    /// But for S1, which is random.
    output: Vec<u8>,
    left_out: Vec<ReadError>,
    error: Option<Error>,
}

/// It gets `input` in pieces of these lengths.
fn run(input: &[u8], cuts: &[usize], is_moved: bool) -> Outcome {
    let mut session = Session::new(Config::default());
    let Outcome { mut events, mut output, mut left_out, .. } = Outcome::default();
    let mut rest = input;
    let mut cuts = cuts.iter().cycle().enumerate();
    let error = loop {
        let Some((index, len)) = cuts.next().filter(|_| !rest.is_empty()) else { break None };
        let (mut piece, tail) = rest.split_at((*len).min(rest.len()));
        rest = tail;
        let handled = handle(&mut session, &mut piece, &mut events, is_moved);
        // Now and then some waits.
        if index % 3 == 0 || handled.is_err() {
            output.append(session.output());
            left_out.extend(session.take_left_out());
        }
        if let (Some(s1), Some(sent)) = (session.s1(), output.get(1..1537)) {
            assert_eq!(s1, sent);
        }
        if let Err(error) = handled {
            break Some(error);
        }
    };
    output.append(session.output());
    output.iter_mut().take(1537).for_each(|byte| *byte = 0);
    Outcome { events, output, left_out, error }
}

/// Publish and play are accepted.
fn handle(
    session: &mut Session,
    input: &mut &[u8],
    events: &mut Vec<Event>,
    is_moved: bool,
) -> Result<(), Error> {
    let pause = |session: &mut Session| {
        if is_moved {
            *session = moved_server(session);
        }
    };
    loop {
        pause(session);
        let Some(event) = session.handle_input(input)? else { return Ok(()) };
        pause(session);
        match event {
            Event::Publish { .. } => session.accept_publish(),
            Event::Play { .. } => session.accept_play(),
            _ => {}
        }
        events.push(event);
    }
}

proptest! {
    #[test]
    fn a_session_that_is_moved_between_any_two_calls_does_the_same(
        input in bytes(),
        cuts in prop::collection::vec(prop_oneof![1usize..10, 1usize..400, Just(3073)], 1..40),
    ) {
        let input = [simple_handshake(), input].concat();
        prop_assert_eq!(run(&input, &cuts, true), run(&input, &cuts, false));
    }
}

#[test]
fn a_handshake_is_answered_when_c1_is_complete_and_s1_stays_the_same() {
    let mut session = Session::new(Config::default());
    let handshake = simple_handshake();
    for byte in &handshake[..1536] {
        session = moved_server(&session);
        assert_eq!(session.handle_input(&mut &[*byte][..]), Ok(None));
        assert!(session.output().is_empty());
    }
    assert_eq!(session.handle_input(&mut &handshake[1536..2000]), Ok(None));
    session = moved_server(&session);
    assert_eq!(session.output().len(), 3073);
    let s1 = session.output()[1..1537].to_vec();
    assert_eq!(session.handle_input(&mut &handshake[2000..]), Ok(None));
    session = moved_server(&session);
    assert_eq!(session.s1(), Some(&s1[..]));
    assert_eq!(session.bytes_received(), 3073);
}

#[test]
fn a_client_keeps_the_chunk_size_it_was_told_and_another_gets_that_of_now() {
    let config = Config { chunk_size: 4096, ..Config::default() };
    let mut told = moved_server(&Pair::connected().session);
    assert_eq!(told.check(config.clone()), Ok(()));
    assert_eq!(told.chunk_size(), crate::wire::CHUNK_SIZE);
    let mut untold = moved_server(&Pair::new().session);
    assert_eq!(untold.check(config), Ok(()));
    assert_eq!(untold.chunk_size(), 4096);
}

#[test]
fn what_of_a_play_is_still_to_come_is_in_the_record() {
    let mut pair = Pair::connected();
    pair.events(&command(3, 0, "createStream", 2.0, &[NULL]));
    for kind in ["receiveAudio", "receiveVideo"] {
        pair.events(&command(8, 1, kind, 0.0, &[NULL, false.into()]));
    }
    let play = command(8, 1, "play", 0.0, &[NULL, "s".into()]);
    let asked = pair.session.handle_input(&mut &play[..]);
    assert!(matches!(asked, Ok(Some(Event::Play { msid: 1, .. }))));
    pair.session = moved_server(&pair.session);
    pair.session.accept_play();
    let rest = [Event::ReceiveAudio { msid: 1, on: false }, Event::ReceiveVideo { msid: 1, on: false }];
    assert_eq!(pair.events(b""), rest);
    assert!(pair.heard().contains(&"1: onStatus 0 null status/NetStream.Play.Start".to_owned()));
}
