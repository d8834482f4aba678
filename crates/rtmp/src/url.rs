//! Addresses: `rtmp://host[:port]/app[/more]/stream[?params]`.

use std::fmt;
use std::str::FromStr;

/// Port of an address that names none (RTMP 1.0, section 1).
pub const DEFAULT_PORT: u16 = 1935;

/// The address of a stream on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 1935 when the address names none.
    pub port: u16,
    /// All path parts but the last.
    pub app: String,
    /// The last path part, with `?params` as written.
    pub stream: String,
}

/// Not an address to publish to or play from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another protocol, or none.
    #[error("the address does not begin with rtmp://; write it as rtmp://HOST[:PORT]/APP/STREAM")]
    Scheme,
    /// Empty, or with characters no host name has.
    #[error("\"{0}\" is no host; write the address as rtmp://HOST[:PORT]/APP/STREAM")]
    Host(String),
    /// Not 1 to 65535.
    #[error("\"{0}\" is no port; use a number from 1 to 65535")]
    Port(String),
    /// Fewer than two path parts.
    #[error("the address names no stream; write it as rtmp://HOST[:PORT]/APP/STREAM")]
    Stream,
    /// White space or a control character.
    #[error("the address contains white space or a control character")]
    Character,
}

impl Url {
    /// The address of the application, as `connect` carries it in `tcUrl`.
    pub fn tc_url(&self) -> String {
        format!("rtmp://{}/{}", self.authority(), self.app)
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == DEFAULT_PORT { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    /// Without parameters: they may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.stream.split('?').next().unwrap_or_default();
        write!(f, "{}/{stream}", self.tc_url())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(UrlError::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("rtmp") {
            return Err(UrlError::Scheme);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_authority(authority)?;
        let (path, params) = match path.find('?') {
            Some(at) => path.split_at(at),
            None => (path, ""),
        };
        let (app, stream) = path.rsplit_once('/').ok_or(UrlError::Stream)?;
        let app = app.trim_matches('/');
        if app.is_empty() || stream.is_empty() {
            return Err(UrlError::Stream);
        }
        Ok(Self { host, port, app: app.to_owned(), stream: format!("{stream}{params}") })
    }
}

fn split_authority(authority: &str) -> Result<(String, u16), UrlError> {
    let bad_host = || UrlError::Host(authority.to_owned());
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or_else(bad_host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| bad_host())?;
        match behind.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if behind.is_empty() => (host, None),
            None => return Err(bad_host()),
        }
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.starts_with('-') || !host.chars().all(known) {
            return Err(bad_host());
        }
        (host, port)
    };
    let port = match port {
        None => DEFAULT_PORT,
        // `parse` alone would take a sign.
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => match text.parse() {
            Ok(0) | Err(_) => return Err(UrlError::Port(text.to_owned())),
            Ok(port) => port,
        },
        Some(text) => return Err(UrlError::Port(text.to_owned())),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_host_port_app_and_stream() {
        let parsed = url("rtmp://127.0.0.5:1936/live/a/livestream?token=x/y");
        assert_eq!((&*parsed.host, parsed.port), ("127.0.0.5", 1936));
        assert_eq!((&*parsed.app, &*parsed.stream), ("live/a", "livestream?token=x/y"));
        assert_eq!(parsed.tc_url(), "rtmp://127.0.0.5:1936/live/a");
        assert_eq!(parsed.to_string(), "rtmp://127.0.0.5:1936/live/a/livestream");
        // No parameters: a name that has such a character.
        assert_eq!(url("rtmp://h/live/s#1").stream, "s#1");
    }

    #[test]
    fn the_port_defaults_to_1935_and_is_then_not_shown() {
        assert_eq!(url("RTMP://h/live/s").port, 1935);
        assert_eq!(url("rtmp://h:1935/live/s").to_string(), "rtmp://h/live/s");
    }

    #[test]
    fn an_ipv6_literal_stands_in_brackets() {
        let parsed = url("rtmp://[::1]:1936/live/s");
        assert_eq!((&*parsed.host, parsed.port), ("::1", 1936));
        assert_eq!(parsed.to_string(), "rtmp://[::1]:1936/live/s");
        assert_eq!(url("rtmp://[fe80::1]/live/s").port, 1935);
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        let error = |text: &str| text.parse::<Url>().unwrap_err();
        assert_eq!(error("live/livestream"), UrlError::Scheme);
        assert_eq!(error("http://h/live/s"), UrlError::Scheme);
        assert_eq!(error("rtmps://h/live/s"), UrlError::Scheme);
        assert_eq!(error("rtmp:///live/s"), UrlError::Host(String::new()));
        assert_eq!(error("rtmp://-h/live/s"), UrlError::Host("-h".into()));
        assert_eq!(error("rtmp://u@h/live/s"), UrlError::Host("u@h".into()));
        assert_eq!(error("rtmp://[::1/live/s"), UrlError::Host("[::1".into()));
        assert_eq!(error("rtmp://[::1]x/live/s"), UrlError::Host("[::1]x".into()));
        for port in ["0", "65536", "+1", "x", "-1"] {
            assert_eq!(error(&format!("rtmp://h:{port}/live/s")), UrlError::Port(port.into()));
        }
        assert_eq!(error("rtmp://h:/live/s"), UrlError::Port(String::new()));
        assert_eq!(error("rtmp://h"), UrlError::Stream);
        assert_eq!(error("rtmp://h/live"), UrlError::Stream);
        assert_eq!(error("rtmp://h/live/"), UrlError::Stream);
        assert_eq!(error("rtmp://h/?a/b"), UrlError::Stream);
        assert_eq!(error("rtmp://h/live/a b"), UrlError::Character);
    }
}
