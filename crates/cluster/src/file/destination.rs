//! What `ssh:` of a host may say.

use super::host_name;
use super::report::quoted;
use crate::destination::Destination;

/// Longest name of a user, characters, as useradd has it.
const MAX_USER: usize = 32;

/// What it may be, in words.
pub(super) const EXPECTED: &str = "how ssh gets there: [user@]host[:port]";

/// Takes `[user@]host[:port]` apart; an IPv6 address with a port stands in brackets.
///
/// # Errors
/// Why it is none, and what to do.
pub(crate) fn parse(text: &str) -> Result<Destination, (String, String)> {
    let wrong = |why: &str, help: &str| {
        Err((format!("expected {EXPECTED}, found {}{why}", quoted(text)), help.to_owned()))
    };
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, text),
    };
    if let Some(user) = user {
        let is_sound = (1..=MAX_USER).contains(&user.len())
            && !user.starts_with('-')
            && user.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !is_sound {
            return wrong(
                ", whose user is no name",
                "a user has letters, digits, `-`, `_` and `.`, at most 32",
            );
        }
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return wrong("", "behind the brackets there may be `:` and a port"),
        },
        // Two colons are an IPv6 address without a port.
        None => match place.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            Some(_) | None => (place, None),
        },
    };
    let number = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0));
    if number == Some(None) {
        return wrong(", whose port is none", "a port is 1 to 65535; without one, ssh decides");
    }
    host_name::check(host).map_err(|wrong| (wrong.message, wrong.help))?;
    Ok(Destination { user: user.map(str::to_owned), host: host.to_owned(), port: number.flatten() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_one_is_read_and_written_back() {
        for (text, user, host, port) in [
            ("192.168.1.6", None, "192.168.1.6", None),
            ("edge-1", None, "edge-1", None),
            ("srsctl@edge-1.example:2222", Some("srsctl"), "edge-1.example", Some(2222)),
            ("me@::1", Some("me"), "::1", None),
            ("[::1]:22", None, "::1", Some(22)),
        ] {
            let read = parse(text).unwrap();
            assert_eq!((read.user.as_deref(), read.host.as_str(), read.port), (user, host, port), "{text}");
            assert_eq!(read.to_string(), text);
        }
        assert_eq!(parse("[::1]").unwrap().host, "::1");
    }

    #[test]
    fn what_ssh_would_take_for_an_option_or_a_command_is_refused() {
        let long = format!("{}@h", "u".repeat(MAX_USER + 1));
        for text in [
            "",
            "-oProxyCommand=x",
            "me@-oProxyCommand=x",
            "-l@h",
            "@h",
            "me@",
            "a b",
            "h:0",
            "h:70000",
            "h:x",
            "h:",
            "[::1]x",
            "[::1",
            "ssh://h",
            "h\nx",
            "me@h@x y",
            "$(x)",
            "h;x",
            "h/x",
            &long,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
