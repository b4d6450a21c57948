//! Paths and queries as they may stand in a log: without credentials, on one line.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::percent_decode;

const MASK: &str = "***";

/// Path segments that are followed by a credential, and how far behind them it stands: the login-token route,
/// Meteor's account links, invitations, a livechat visitor's token, an incoming webhook (`/hooks/<id>/<token>`).
const BEFORE_SECRET: &[(&str, usize)] =
    &[("login-token", 1), ("reset-password", 1), ("verify-email", 1), ("enroll-account", 1), ("invite", 1), ("visitor", 1), ("hooks", 2)];

/// Names of parameters that are credentials wherever the word stands in them, letters and digits only:
/// `resumeToken`, `rc_token`, `X-Auth-Token`, `user[password]`.
const SECRET_WORDS: &[&str] = &["token", "password", "passwd", "secret", "credential", "apikey", "samlresponse"];

/// The same for names that are too short or too common to be looked for inside others. Meteor carries the
/// token of an OAuth login in `state`.
const SECRET_NAMES: &[&str] =
    &["code", "jwt", "ticket", "pwd", "pass", "auth", "authorization", "session", "sessionid", "sid", "resume", "state"];

/// `text`, a path with its query, with every credential in it replaced by `***`, and with what is not
/// printable ASCII percent-encoded, so that a log line cannot be forged. Borrowed when nothing has to change.
pub fn path_and_query(text: &str) -> Cow<'_, str> {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let mut out = Masked { text, copied: 0, out: String::new() };
    mask_path(path, &mut out);
    if let Some(query) = query {
        mask_query(query, path.len() + 1, &mut out);
    }
    escape(out.finish())
}

/// A copy of `text` with gaps, begun at the first gap.
struct Masked<'t> {
    text: &'t str,
    copied: usize,
    out: String,
}

impl<'t> Masked<'t> {
    fn mask(&mut self, start: usize, end: usize) {
        if start < end {
            self.out.push_str(&self.text[self.copied..start]);
            self.out.push_str(MASK);
            self.copied = end;
        }
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.push_str(&self.text[self.copied..]);
        Cow::Owned(self.out)
    }
}

fn mask_path(path: &str, out: &mut Masked<'_>) {
    // Counts down to the segment that is the credential. Empty segments do not count: `//` is read as `/` by some.
    let mut due = 0;
    let mut start = 0;
    for segment in path.split('/') {
        let end = start + segment.len();
        if !segment.is_empty() {
            if due == 1 {
                out.mask(start, end);
            }
            due = usize::saturating_sub(due, 1).max(secret_behind(segment));
        }
        start = end + 1;
    }
}

fn secret_behind(segment: &str) -> usize {
    let decoded: Cow<'_, [u8]> = percent_decode(segment.as_bytes()).into();
    BEFORE_SECRET.iter().find(|(name, _)| decoded.eq_ignore_ascii_case(name.as_bytes())).map_or(0, |(_, behind)| *behind)
}

fn mask_query(query: &str, offset: usize, out: &mut Masked<'_>) {
    let mut start = offset;
    for parameter in query.split('&') {
        let end = start + parameter.len();
        // Some servers split at `;` too, so that a name may stand behind one. The value then goes up to the
        // next `&`, since others do not.
        let mut at = start;
        for part in parameter.split(';') {
            if let Some((name, value)) = part.split_once('=')
                && (is_secret(name.as_bytes()) || holds_secret(value))
            {
                out.mask(at + name.len() + 1, end);
                break;
            }
            at += part.len() + 1;
        }
        start = end + 1;
    }
}

/// Whether a parameter of this name, percent-encoded or not, is a credential.
fn is_secret(name: &[u8]) -> bool {
    // Letters and digits in lower case; on the stack, since nearly no name is a secret.
    let mut plain = [0_u8; 64];
    let mut len = 0;
    for byte in percent_decode(name).filter(u8::is_ascii_alphanumeric) {
        let Some(place) = plain.get_mut(len) else { return true };
        *place = byte.to_ascii_lowercase();
        len += 1;
    }
    let plain = &plain[..len];
    SECRET_NAMES.iter().any(|name| plain == name.as_bytes())
        || SECRET_WORDS.iter().any(|word| plain.windows(word.len()).any(|w| w == word.as_bytes()))
}

/// Whether a value is itself an address or JSON with a credential in it, such as
/// `return=%2Fhome%3FresumeToken%3D…`, encoded up to three times.
fn holds_secret(value: &str) -> bool {
    let mut value = Cow::Borrowed(value.as_bytes());
    for _ in 0..4 {
        if assigns_secret(&value) {
            return true;
        }
        let Cow::Owned(decoded) = Cow::<[u8]>::from(percent_decode(&value)) else { return false };
        value = Cow::Owned(decoded);
    }
    false
}

/// Whether a secret's name stands before some `=` or `:`.
fn assigns_secret(text: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"_-.%[]".contains(b);
    text.iter().enumerate().filter(|(_, b)| b"=:".contains(b)).any(|(at, _)| {
        let before = text[..at].trim_ascii_end();
        let before = before.strip_suffix(b"\"").unwrap_or(before);
        let start = before.iter().rposition(|b| !is_name(b)).map_or(0, |i| i + 1);
        is_secret(&before[start..])
    })
}

fn escape(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_masked() {
        for (before, after) in [
            ("/home?resumeToken=abc&userId=u", "/home?resumeToken=***&userId=u"),
            ("/home?RESUMETOKEN=abc", "/home?RESUMETOKEN=***"),
            ("/avatar/a?rc_uid=u&rc_token=abc", "/avatar/a?rc_uid=u&rc_token=***"),
            ("/file-upload/id/a.png?token=abc.def", "/file-upload/id/a.png?token=***"),
            ("/x?loginToken=a&authToken=b&access_token=c&id_token=d", "/x?loginToken=***&authToken=***&access_token=***&id_token=***"),
            ("/_oauth/x?code=abc&state=s", "/_oauth/x?code=***&state=***"),
            ("/x?password=a&client_secret=b&X-Auth-Token=c", "/x?password=***&client_secret=***&X-Auth-Token=***"),
            ("/x?resume%54oken=abc", "/x?resume%54oken=***"),
            ("/x?%74%6f%6b%65%6e=abc", "/x?%74%6f%6b%65%6e=***"),
            ("/x?user[password]=abc", "/x?user[password]=***"),
            ("/x?a=1;token=abc;b=2&c=3", "/x?a=1;token=***&c=3"),
            ("/x?token=a;bc", "/x?token=***"),
            ("/x?token=a=b?c", "/x?token=***"),
            ("/x?a=b?token=abc", "/x?a=***"),
            ("/login?return=%2Fhome%3FresumeToken%3Dabc", "/login?return=***"),
            ("/login?return=%252Fhome%253FresumeToken%253Dabc&x=1", "/login?return=***&x=1"),
            ("/x?query=%7B%22password%22%3A%22abc%22%7D", "/x?query=***"),
            ("/login-token/abc", "/login-token/***"),
            ("/Login-Token/abc/x?y", "/Login-Token/***/x?y"),
            ("/login%2Dtoken//abc", "/login%2Dtoken//***"),
            ("/hooks/64a1/abc", "/hooks/64a1/***"),
            ("/api/v1/livechat/visitor/abc", "/api/v1/livechat/visitor/***"),
            ("/reset-password/abc", "/reset-password/***"),
        ] {
            assert_eq!(path_and_query(before), after);
            assert!(!path_and_query(before).contains("abc"), "{before}");
        }
    }

    #[test]
    fn what_holds_no_secret_is_not_copied() {
        for text in [
            "",
            "/",
            "*",
            "/channel/general?layout=embedded",
            "/meteor_runtime_config.js?hash=0123abcd",
            "/sockjs/123/abcdefgh/websocket",
            "/api/v1/users.info?username=token",
            "/x?barcode=1&sidebar=2&encode=3&passage=4",
            "/x?token=",
            "/x?token",
            "/x?a=b:c=d",
            "/login-token/",
            "/hooks/64a1",
            "/x?&&;;==",
        ] {
            assert!(matches!(path_and_query(text), Cow::Borrowed(t) if t == text), "{text}");
        }
    }

    #[test]
    fn a_line_cannot_be_forged() {
        for (before, after) in [
            ("/a\r\nINFO forged", "/a%0D%0AINFO%20forged"),
            ("/a\u{1b}[2J", "/a%1B[2J"),
            ("/a\u{7f}\u{85}", "/a%7F%C2%85"),
            ("/a\u{202e}b", "/a%E2%80%AEb"),
            ("/a?token=x\ny&z=\t", "/a?token=***&z=%09"),
        ] {
            assert_eq!(path_and_query(before), after);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_text_gives_one_printable_line(text in any::<String>()) {
            let shown = path_and_query(&text);
            prop_assert!(shown.bytes().all(|b| b.is_ascii_graphic()));
        }

        #[test]
        fn the_secret_never_shows(
            path in "(/[a-z%0-9]{0,6}){0,4}",
            before in proptest::collection::vec("[a-z%0-9]{0,5}=?[a-z%0-9?;:=]{0,5}", 0..3),
            name in "(resume|rc_|access_|x-auth-|)(t|%74|T)oken",
            after in proptest::collection::vec("[a-z]{0,5}=?[a-z;]{0,5}", 0..3),
        ) {
            let mut parameters = before;
            parameters.push(format!("{name}=SECRET"));
            parameters.extend(after);
            let text = format!("{path}?{}", parameters.join("&"));
            prop_assert!(!path_and_query(&text).contains("SECRET"), "{}", text);
        }
    }
}
