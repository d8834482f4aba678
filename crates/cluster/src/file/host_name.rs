//! What a host may be called.

use std::net::{IpAddr, Ipv4Addr};

use super::report::quoted;

/// Longest host name, characters: files are called by role, host and port, and a file's name has 255 bytes at most. RFC 1035
/// §2.3.4 would allow 253.
const MAX_NAME: usize = 230;
/// Longest label of one.
const MAX_LABEL: usize = 63;

/// What a host may be, in words.
pub(super) const EXPECTED: &str = "a host name or an IP address";

/// Why a text is no host.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: String,
}

/// Whether `host` is an address that can be connected to, or can be a name (RFC 1123 §2.1, and `_`, which container
/// networks use).
pub(super) fn check(host: &str) -> Result<(), Wrong> {
    let wrong = |why: &str, help: &str| {
        Err(Wrong { message: format!("expected {EXPECTED}, found {}{why}", quoted(host)), help: help.into() })
    };
    if host.is_empty() {
        return wrong(", which is empty", "write `host: 127.0.0.6`, or the name of a server");
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        if address.is_unspecified() {
            return wrong(
                ", which means every address",
                "`host` is what others connect to; `listen` may be 0.0.0.0",
            );
        }
        if is_group(address.to_canonical()) {
            return wrong(", which is the address of a group", "write the address of one server");
        }
        return Ok(());
    }
    if host.contains("://") {
        return wrong(", a URL", "write the host alone, without scheme, port and path");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong(
            " with a space or a control character in it",
            "write the name alone; each host is an entry of its own",
        );
    }
    if host.contains(['[', ']']) {
        return wrong(" with brackets", "write an IPv6 address without brackets, as in `host: \"::1\"`");
    }
    if let Some((_, port)) = host.split_once(':') {
        if port.chars().all(|c| c.is_ascii_digit()) {
            return wrong(
                " with a port",
                "ports have a key of their own: `port` for the origin, `ports` for an edge",
            );
        }
        return wrong(", which is no IPv6 address", "");
    }
    if host.starts_with('-') {
        return wrong(", which starts with `-`", "programs would take it for an option");
    }
    if let Some(c) = host.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        let help = if c.is_ascii() {
            "a name has letters, digits, `-`, `_` and `.`"
        } else {
            "a name has ASCII letters, digits, `-`, `_` and `.`; an international name is written in its xn-- form"
        };
        return wrong(&format!(" with {} in it", quoted(&c.to_string())), help);
    }
    if host.len() > MAX_NAME {
        return wrong(
            &format!(" of {} characters", host.len()),
            "a name may have at most 230: files are called by it",
        );
    }
    for label in host.split('.') {
        if label.is_empty() {
            return wrong(" with nothing between two dots or at an end", "");
        }
        if label.len() > MAX_LABEL {
            return wrong(" with a part that is too long", "between dots there are at most 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong(" with a part that starts or ends with `-`", "");
        }
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    if last.chars().all(|c| c.is_ascii_digit())
        || hex.is_some_and(|h| h.chars().all(|c| c.is_ascii_hexdigit()))
    {
        return wrong(
            ", which is no IPv4 address",
            "an IPv4 address has four numbers, 0 to 255, without leading zeros",
        );
    }
    Ok(())
}

/// Whether no single server can have this address.
pub(super) fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Role, UnitId};

    #[test]
    fn every_file_that_is_called_by_a_host_has_a_name_that_fits() {
        let host =
            format!("{0}.{0}.{0}.{1}", "a".repeat(MAX_LABEL), "b".repeat(MAX_NAME - 3 * (MAX_LABEL + 1)));
        assert!(check(&host).is_ok() && check(&format!("{host}b")).is_err());
        // The longest suffix is that of a config while it is written.
        let name = format!("{}.yaml.tmp", UnitId::worker(Role::Origin, &host, u16::MAX));
        assert!(name.len() <= 255, "{}", name.len());
    }
}
