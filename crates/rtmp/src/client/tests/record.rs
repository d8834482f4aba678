//! Sessions that are moved to another process.

use super::*;
use crate::fuzz::tests::bytes;

/// What comes of `input` in pieces of these lengths, and the output but for C1, which is random. What is published is given back, and
/// published again, now and then.
fn run(mode: Mode, input: &[u8], cuts: &[usize], is_moved: bool) -> (Vec<Event>, Vec<u8>, Option<Error>) {
    let mut session = Session::new(config(mode)).unwrap();
    let (mut events, mut output) = (Vec::new(), Vec::new());
    let mut rest = input;
    let mut cuts = cuts.iter().cycle().enumerate();
    let error = loop {
        let Some((index, len)) = cuts.next().filter(|_| !rest.is_empty()) else { break None };
        let (mut piece, tail) = rest.split_at((*len).min(rest.len()));
        rest = tail;
        let handled = loop {
            if is_moved && let Some(moved) = moved_client(&session, config(mode)) {
                session = moved;
            }
            match session.handle_input(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = handled {
            break Some(error);
        }
        match index % 7 {
            2 => output.append(session.output()),
            5 => session.finish(),
            6 => session.restart(),
            _ => session.ping(index as u32),
        }
    };
    output.append(session.output());
    output.iter_mut().take(1537).for_each(|byte| *byte = 0);
    (events, output, error)
}

/// A server that agrees to everything, and then says anything.
fn server(rest: &[u8]) -> Vec<u8> {
    let start = [
        simple_handshake(),
        connected(),
        command(3, 0, "_result", 4.0, &[NULL, 5.0.into()]),
        status(5, "status", "NetStream.Publish.Start"),
        status(5, "status", "NetStream.Play.Start"),
    ];
    [&start.concat(), rest].concat()
}

proptest! {
    #[test]
    fn a_session_that_is_moved_between_any_two_calls_does_the_same(
        plays: bool,
        rest in bytes(),
        cuts in prop::collection::vec(prop_oneof![1usize..10, 1usize..400, Just(3073)], 1..40),
    ) {
        let mode = if plays { Mode::Play } else { Mode::Publish };
        let input = server(&rest);
        prop_assert_eq!(run(mode, &input, &cuts, true), run(mode, &input, &cuts, false));
    }
}
