//! What an origin sends beyond its own edges: the addresses of others, as templates, and which streams go there.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Port of an address that names none (RTMP 1.0, section 1).
const DEFAULT_PORT: u16 = 1935;

/// One target of `forward:` in cluster.yaml.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Names it in `status` and in the log; unique in its cluster. Letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Where a stream is published.
    pub to: Template,
    /// The streams that go there: those that fit one of these.
    pub streams: Vec<Glob>,
    /// Those of them that do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Glob>,
    /// Where what stands for `{key}` is read, at each connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// Where a credential is. What it says is in no file of ours, and never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// A file on the origin's machine, absolute path: its text, without white space around it.
    File(PathBuf),
    /// A variable in the environment that the cluster was brought up in.
    Env(String),
}

impl Outbound {
    /// Most targets of one cluster: each costs the origin a connection for each stream.
    pub const MAX: usize = 32;
    /// Longest name, bytes.
    pub const NAME_MAX: usize = 64;

    /// Whether a target may be called so.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        (1..=Self::NAME_MAX).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    }

    /// Whether it is given `stream`, an `app/stream`.
    #[must_use]
    pub fn takes(&self, stream: &str) -> bool {
        let fits = |globs: &[Glob]| globs.iter().any(|glob| glob.fits(stream));
        fits(&self.streams) && !fits(&self.except)
    }
}

/// Why a text is not what it should be, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// The next step.
    pub help: String,
}

fn wrong<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { message: message.into(), help: help.into() })
}

/// An address with `{app}`, `{stream}` and `{key}` in its path: `rtmp://host[:port]/app/stream[?params]`. `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    /// Name or address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    app: Vec<Piece>,
    /// With the parameters.
    stream: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    App,
    Stream,
    Key,
}

/// A template that has been filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// All path parts but the last.
    pub app: String,
    /// The last path part, with its parameters.
    pub stream: String,
}

impl Template {
    /// Longest one, bytes.
    pub const MAX: usize = 256;

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Name or address of the server; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port of the server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether `{key}` stands in it.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.has(&Piece::Key)
    }

    /// Whether two streams of an application have different addresses.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        self.has(&Piece::Stream)
    }

    fn has(&self, piece: &Piece) -> bool {
        self.app.iter().chain(&self.stream).any(|it| it == piece)
    }

    /// The address of a stream. `key` is taken as it is; of a name what would change the meaning of an address is written `%XX`.
    #[must_use]
    pub fn fill(&self, app: &str, stream: &str, key: &str) -> Place {
        let fill = |pieces: &[Piece]| {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(plain) => text.push_str(plain),
                    Piece::App => push_name(&mut text, app),
                    Piece::Stream => push_name(&mut text, stream),
                    Piece::Key => text.push_str(key),
                }
            }
            text
        };
        Place { host: self.host.clone(), port: self.port, app: fill(&self.app), stream: fill(&self.stream) }
    }

    /// The same for a person: `{key}` stays, and there are no parameters.
    #[must_use]
    pub fn shown(&self, app: &str, stream: &str) -> String {
        let Place { host, port, app, stream } = self.fill(app, stream, "{key}");
        let stream = stream.split('?').next().unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let port = if port == DEFAULT_PORT { String::new() } else { format!(":{port}") };
        format!("rtmp://{host}{port}/{app}/{stream}")
    }
}

fn push_name(text: &mut String, name: &str) {
    for c in name.chars() {
        if c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '&') {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
        } else {
            text.push(c);
        }
    }
}

impl TryFrom<String> for Template {
    type Error = Wrong;

    fn try_from(text: String) -> Result<Self, Wrong> {
        const EXAMPLE: &str =
            "write it as rtmp://HOST[:PORT]/APP/STREAM, such as rtmp://backup/{app}/{stream}";
        if text.len() > Self::MAX {
            return wrong(format!("the address is longer than {} bytes", Self::MAX), "use a shorter one");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return wrong("the address contains white space or a control character", EXAMPLE);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("the address does not begin with rtmp://", EXAMPLE);
        };
        if scheme.eq_ignore_ascii_case("rtmps") {
            return wrong(
                "srsctl does not send to rtmps:// yet",
                "write rtmp:// where the target takes it, or send to a server beside the origin that speaks TLS for it",
            );
        }
        if !scheme.eq_ignore_ascii_case("rtmp") {
            return wrong("the address does not begin with rtmp://", EXAMPLE);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return wrong(
                "the address has a user or a password in it",
                "cluster.yaml holds no secret: put it into a file, name that as `key: { file: PATH }`, and write {key} in the path",
            );
        }
        let (host, port) = server(authority)?;
        let (path, params) = match path.find('?') {
            Some(at) => path.split_at(at),
            None => (path, ""),
        };
        if let Some(param) = secret_param(params) {
            return wrong(
                format!("the address has what may be a secret in it, as `{param}`"),
                format!("cluster.yaml holds no secret: put it into a file, and write {param}={{key}}"),
            );
        }
        let (app, stream) = path.rsplit_once('/').unwrap_or(("", ""));
        let app = app.trim_matches('/');
        if app.is_empty() || stream.is_empty() {
            return wrong("the address names no stream", EXAMPLE);
        }
        let (app, stream) = (pieces(app)?, pieces(&format!("{stream}{params}"))?);
        Ok(Self { host, port, app, stream, text })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Host and port.
fn server(authority: &str) -> Result<(String, u16), Wrong> {
    const HELP: &str = "write it as rtmp://HOST[:PORT]/APP/STREAM; a variable stands behind the host alone";
    let bad_host = || wrong(format!("{authority:?} is no host"), HELP);
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((host, behind)) = rest.split_once(']') else { return bad_host() };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return bad_host();
        }
        match behind.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if behind.is_empty() => (host, None),
            None => return bad_host(),
        }
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.starts_with('-') || !host.chars().all(known) {
            return bad_host();
        }
        (host, port)
    };
    let port = match port {
        None => DEFAULT_PORT,
        // `parse` alone would take a sign.
        Some(text) => match text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())) {
            Some(port) if port != 0 => port,
            _ => return wrong(format!("{text:?} is no port"), "use a number from 1 to 65535"),
        },
    };
    Ok((host.to_owned(), port))
}

/// The name of the first parameter whose value looks like a secret and is written out.
fn secret_param(params: &str) -> Option<&str> {
    const SECRETS: &[&str] =
        &["auth", "key", "pass", "password", "secret", "sign", "signature", "token", "txsecret", "wssecret"];
    let params = params.trim_start_matches('?').split('&').filter_map(|param| param.split_once('='));
    let mut found = params.filter(|(name, value)| {
        !value.is_empty() && !value.contains('{') && SECRETS.contains(&&*name.to_ascii_lowercase())
    });
    found.next().map(|(name, _)| name)
}

fn pieces(text: &str) -> Result<Vec<Piece>, Wrong> {
    const HELP: &str = "the variables are {app}, {stream} and {key}; a brace itself is written {{ or }}";
    let (mut pieces, mut plain) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => plain.push(c),
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) => name.push(c),
                        None => return wrong("a brace in the address is not closed", HELP),
                    }
                }
                let piece = match name.as_str() {
                    "app" => Piece::App,
                    "stream" => Piece::Stream,
                    "key" => Piece::Key,
                    _ => return wrong(format!("the address has no variable {name:?}"), HELP),
                };
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(piece);
            }
            '}' => return wrong("a brace in the address closes nothing", HELP),
            c => plain.push(c),
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// A pattern of streams: `*` is any text without a slash, `**` any text, `?` one character but a slash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

enum Token {
    One,
    Many { over_slashes: bool },
    Char(char),
}

impl Glob {
    /// Longest one, bytes: as long as the longest name of a stream.
    pub const MAX: usize = 256;

    /// All streams.
    #[must_use]
    pub fn all() -> Self {
        Self("**".to_owned())
    }

    /// Whether it fits one name alone.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether `text` is of that form. Takes their lengths' product of steps at most.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let tokens = self.tokens();
        let mut reached = vec![false; tokens.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        pass_over(&tokens, &mut reached);
        for c in text.chars() {
            let mut next = vec![false; tokens.len() + 1];
            for (index, token) in
                tokens.iter().enumerate().filter(|(index, _)| reached.get(*index) == Some(&true))
            {
                let to = match token {
                    Token::Many { over_slashes } if *over_slashes || c != '/' => index,
                    Token::One if c != '/' => index + 1,
                    Token::Char(wanted) if *wanted == c => index + 1,
                    Token::Many { .. } | Token::One | Token::Char(_) => continue,
                };
                if let Some(to) = next.get_mut(to) {
                    *to = true;
                }
            }
            pass_over(&tokens, &mut next);
            reached = next;
        }
        reached.last() == Some(&true)
    }

    fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = self.0.chars().peekable();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => {
                    let mut over_slashes = false;
                    while rest.next_if_eq(&'*').is_some() {
                        over_slashes = true;
                    }
                    Token::Many { over_slashes }
                }
                '?' => Token::One,
                c => Token::Char(c),
            });
        }
        tokens
    }
}

/// Many may be none.
fn pass_over(tokens: &[Token], reached: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        if matches!(token, Token::Many { .. })
            && reached.get(index) == Some(&true)
            && let Some(next) = reached.get_mut(index + 1)
        {
            *next = true;
        }
    }
}

impl TryFrom<String> for Glob {
    type Error = Wrong;

    fn try_from(text: String) -> Result<Self, Wrong> {
        const HELP: &str = "a pattern is of app/stream, such as \"live/*\"; * is any text without a slash, ** any text, ? one character";
        if text.is_empty() || text.len() > Self::MAX {
            return wrong(format!("a pattern has 1 to {} bytes", Self::MAX), HELP);
        }
        if text.chars().any(char::is_control) {
            return wrong("the pattern contains a control character", HELP);
        }
        if !text.contains('/') && !text.contains("**") {
            return wrong("the pattern fits no stream: it has no slash", HELP);
        }
        Ok(Self(text))
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template, Wrong> {
        Template::try_from(text.to_owned())
    }

    #[test]
    fn a_template_is_filled_with_names_and_key() {
        let filled = |text: &str| {
            let Place { host, port, app, stream } =
                template(text).unwrap().fill("live/a", "b?c d", "k?x=1&y");
            format!("{host} {port} {app} {stream}")
        };
        assert_eq!(filled("rtmp://backup/{app}/{stream}"), "backup 1935 live/a b%3Fc%20d");
        assert_eq!(
            filled("RTMP://[::1]:1936/x/{app}-{stream}?s={key}"),
            "::1 1936 x live/a-b%3Fc%20d?s=k?x=1&y"
        );
        assert_eq!(filled("rtmp://h/live2/{key}"), "h 1935 live2 k?x=1&y");
        assert_eq!(filled("rtmp://h/{key}/{{{stream}}}"), "h 1935 k?x=1&y {b%3Fc%20d}");
    }

    #[test]
    fn a_key_and_parameters_are_not_shown() {
        let shown = |text: &str| template(text).unwrap().shown("live", "a");
        assert_eq!(shown("rtmp://h/{app}/{stream}?k={key}"), "rtmp://h/live/a");
        assert_eq!(shown("rtmp://h:1936/live2/{key}"), "rtmp://h:1936/live2/{key}");
        assert_eq!(shown("rtmp://[::1]/live2/{key}"), "rtmp://[::1]/live2/{key}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_do() {
        for (text, part) in [
            ("backup/{app}/{stream}", "does not begin"),
            ("http://h/{app}/{stream}", "does not begin"),
            ("rtmps://h/{app}/{stream}", "rtmps:// yet"),
            ("rtmp://u:p@h/{app}/{stream}", "a user or a password"),
            ("rtmp:///a/b", "is no host"),
            ("rtmp://-h/a/b", "is no host"),
            ("rtmp://{app}/a/b", "is no host"),
            ("rtmp://[::1/a/b", "is no host"),
            ("rtmp://h:0/a/b", "is no port"),
            ("rtmp://h:+1/a/b", "is no port"),
            ("rtmp://h/{stream}", "names no stream"),
            ("rtmp://h/a/{streams}", "no variable \"streams\""),
            ("rtmp://h/a/{stream", "not closed"),
            ("rtmp://h/a/stream}", "closes nothing"),
            ("rtmp://h/a/{stream}?token=abc", "as `token`"),
            ("rtmp://h/a/b c", "white space"),
        ] {
            let message = template(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(template("rtmp://h/a/{stream}?token={key}&vhost=x").is_ok());
        assert!(template(&format!("rtmp://h/a/{}", "b".repeat(Template::MAX))).is_err());
    }

    #[test]
    fn patterns_fit_by_parts() {
        let fits = |glob: &str, text: &str| Glob::try_from(glob.to_owned()).unwrap().fits(text);
        for (glob, yes, no) in [
            ("**", "live/a", ""),
            ("live/*", "live/a", "live/a/b"),
            ("live/**", "live/a/b", "vip/a"),
            ("*/test*", "live/test1", "live/a/test"),
            ("**/test*", "live/a/test", "live/a"),
            ("live/?", "live/a", "live/ab"),
            ("live/a?c", "live/abc", "live/a/c"),
            ("live/*a*b", "live/xaxxab", "live/xaxxabc"),
            ("直播/*", "直播/一", "直/一"),
        ] {
            assert!(fits(glob, yes), "{glob} {yes}");
            assert!(glob == "**" || !fits(glob, no), "{glob} {no}");
        }
        for wrong in ["", "live", "live/\u{7}", &"a/".repeat(200)] {
            assert!(Glob::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_longer_than_others() {
        let glob = Glob::try_from("*a/".repeat(80)).unwrap();
        let started = std::time::Instant::now();
        assert!(!glob.fits(&"a".repeat(256)));
        assert!(started.elapsed().as_secs() < 2);
    }

    #[test]
    fn streams_go_where_they_fit_and_are_not_excepted() {
        let globs = |all: &[&str]| all.iter().map(|it| Glob::try_from((*it).to_owned()).unwrap()).collect();
        let outbound = Outbound {
            name: "x".into(),
            to: template("rtmp://h/{app}/{stream}").unwrap(),
            streams: globs(&["live/*", "vip/**"]),
            except: globs(&["*/test*"]),
            key: None,
        };
        assert!(outbound.takes("live/a") && outbound.takes("vip/a/b"));
        assert!(!outbound.takes("live/test1") && !outbound.takes("other/a"));
    }
}
