//! Cookies of a request, read as servers do (RFC 6265 §5.4), over all its fields.

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use memchr::memmem;

use super::trim;

/// The cookies that Rocket.Chat's pages set for themselves; `rc_token` is a login token. They never travel
/// to the host app.
pub const ROCKETCHAT: &[&str] = &["rc_uid", "rc_token", "rc_rid", "rc_room_type", "rc_is_widget"];

/// Beginnings of the names of our own cookies.
pub const OURS: &[&str] = &["__Host-gantry", "gantry_"];

/// Whether a cookie of this name is Rocket.Chat's or ours, and so none of the host app's business.
pub fn is_foreign_to_host_app(name: &str) -> bool {
    ROCKETCHAT.contains(&name) || OURS.iter().any(|prefix| name.starts_with(prefix))
}

/// Rocket.Chat's cookies in a request that goes on to it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Rocketchats<'r> {
    /// As they came.
    #[default]
    AsTheyCame,
    /// A login instead of what came: the user's id and a login token.
    Login {
        /// `rc_uid`
        user_id: &'r str,
        /// `rc_token`
        token: &'r str,
    },
    /// No login, whatever came.
    NoLogin,
}

/// The cookies that a login stands in.
const LOGIN: [&[u8]; 2] = [b"rc_uid", b"rc_token"];

/// One field of a request as it goes on to the workspace: without our own cookies, and with Rocket.Chat's as
/// `rocketchats` says. All others stay byte for byte. `None` where nothing is left.
pub(super) fn onward<'v>(value: &'v [u8], rocketchats: Rocketchats<'_>) -> Option<Cow<'v, [u8]>> {
    if matches!(rocketchats, Rocketchats::AsTheyCame) && memmem::find(value, b"gantry").is_none() {
        return Some(Cow::Borrowed(value));
    }
    let goes = |pair: &&[u8]| {
        let (name, _) = split(trim(pair));
        let ours = OURS.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        !ours && (matches!(rocketchats, Rocketchats::AsTheyCame) || !LOGIN.contains(&name))
    };
    let kept = value.split(|&b| b == b';').filter(goes).collect::<Vec<_>>().join(&b';');
    let mut kept = trim(&kept).to_vec();
    if let Rocketchats::Login { user_id, token } = rocketchats {
        let login = format!("rc_uid={user_id}; rc_token={token}{}", if kept.is_empty() { "" } else { "; " });
        kept.splice(..0, login.bytes());
    }
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

/// The values of all cookies of this name, in their order. Those that are not UTF-8 are left out.
pub fn all<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    pairs(headers).map(split).filter(move |(known, _)| *known == name.as_bytes()).filter_map(|(_, value)| std::str::from_utf8(value?).ok())
}

/// The value of the first cookie of this name, without the quotes that may stand around it. Names are
/// case-sensitive. `None` too when the value is not UTF-8.
pub fn get<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let (_, value) = pairs(headers).map(split).find(|(known, _)| *known == name.as_bytes())?;
    let value = value?;
    let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    std::str::from_utf8(bare).ok()
}

/// One `Cookie` value with the cookies that `keep` says yes to by name, in their order and byte for byte;
/// `None` when there are none. A cookie whose name is not UTF-8 is left out, since it cannot be judged.
pub fn filtered(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> Option<HeaderValue> {
    let kept = |pair: &&[u8]| std::str::from_utf8(split(pair).0).is_ok_and(&keep);
    let mut fields = headers.get_all(COOKIE).iter();
    if let (Some(field), None) = (fields.next(), fields.next())
        && !field.is_empty()
        && field.as_bytes().split(|&b| b == b';').map(trim).all(|pair| !pair.is_empty() && kept(&pair))
    {
        return Some(field.clone());
    }
    let mut all = Vec::new();
    for pair in pairs(headers).filter(kept) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(pair);
    }
    if all.is_empty() { None } else { HeaderValue::from_bytes(&all).ok() }
}

/// The names of the cookies. One without `=` is left out: it is a value, and could be anything.
pub fn names(headers: &HeaderMap) -> Vec<&str> {
    pairs(headers).map(split).filter(|(_, value)| value.is_some()).filter_map(|(name, _)| std::str::from_utf8(name).ok()).collect()
}

/// The cookies of all fields, blanks around them taken off, empty ones left out.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|&b| b == b';')).map(trim).filter(|pair| !pair.is_empty())
}

/// Name and value. A pair without `=` counts as a name: some servers read it so, and a browser sends a
/// nameless cookie's value in this form, which could be anything.
fn split(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    match pair.iter().position(|&b| b == b'=') {
        Some(at) => (trim(&pair[..at]), Some(trim(&pair[at + 1..]))),
        None => (pair, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        headers
    }

    #[test]
    fn the_first_of_the_name_is_read() {
        for (fields, name, expected) in [
            (&[&b"a=1; b=2"[..]][..], "b", Some("2")),
            (&[b"a=1", b"b=2"], "b", Some("2")),
            (&[b"a=1; a=2", b"a=3"], "a", Some("1")),
            (&[b"a=x=y=="], "a", Some("x=y==")),
            (&[b"a=\"q\""], "a", Some("q")),
            (&[b"a=\""], "a", Some("\"")),
            (&[b"a="], "a", Some("")),
            (&[b" a = 1 ;;b=2;"], "a", Some("1")),
            (&[b"\xff=1; \xfe; a=2"], "a", Some("2")),
            (&[b"a=\xff"], "a", None),
            (&[b"A=1"], "a", None),
            (&[b"xa=1"], "a", None),
            (&[b"a"], "a", None),
            (&[], "a", None),
        ] {
            assert_eq!(get(&map(fields), name), expected, "{fields:?} {name}");
        }
    }

    #[test]
    fn rocketchats_and_our_cookies_stay_away_from_the_host_app() {
        for (fields, expected) in [
            (&[&b"session=abc; theme=dark"[..]][..], Some(&b"session=abc; theme=dark"[..])),
            (&[b"rc_uid=u; session=a=b; rc_token=t"], Some(b"session=a=b")),
            (&[b"rc_token=t", b"session=\"q\xff\"", b"x=1"], Some(b"session=\"q\xff\"; x=1")),
            (&[b"__Host-gantry=1;gantry_x=2; gantry=3"], Some(b"gantry=3")),
            (&[b" rc_token =t; rc_token"], None),
            (&[b"rc_token=t"], None),
            (&[b"; ;"], None),
            (&[b""], None),
            (&[], None),
        ] {
            let kept = filtered(&map(fields), |name| !is_foreign_to_host_app(name));
            assert_eq!(kept.as_ref().map(HeaderValue::as_bytes), expected, "{fields:?}");
        }
    }

    #[test]
    fn our_cookies_stay_away_from_the_workspace() {
        let login = Rocketchats::Login { user_id: "u", token: "t" };
        for (value, as_they_came, with_login, without) in [
            (
                &b"a=1; b=\"2\";c"[..],
                Some(&b"a=1; b=\"2\";c"[..]),
                &b"rc_uid=u; rc_token=t; a=1; b=\"2\";c"[..],
                Some(&b"a=1; b=\"2\";c"[..]),
            ),
            (b"__Host-gantry=x; a=1;  b=\xff", Some(b"a=1;  b=\xff"), b"rc_uid=u; rc_token=t; a=1;  b=\xff", Some(b"a=1;  b=\xff")),
            (b"a=1; gantry_chat=x;b=2", Some(b"a=1;b=2"), b"rc_uid=u; rc_token=t; a=1;b=2", Some(b"a=1;b=2")),
            (b"a=1; gantry_chat", Some(b"a=1"), b"rc_uid=u; rc_token=t; a=1", Some(b"a=1")),
            (b"__Host-gantry=x", None, b"rc_uid=u; rc_token=t", None),
            (
                b"gantry=theirs; x=gantry_y",
                Some(b"gantry=theirs; x=gantry_y"),
                b"rc_uid=u; rc_token=t; gantry=theirs; x=gantry_y",
                Some(b"gantry=theirs; x=gantry_y"),
            ),
            (
                b"rc_uid=o; rc_token=p; rc_rid=r",
                Some(b"rc_uid=o; rc_token=p; rc_rid=r"),
                b"rc_uid=u; rc_token=t; rc_rid=r",
                Some(b"rc_rid=r"),
            ),
            (b"rc_token=p; gantry_chat=x; rc_token=q", Some(b"rc_token=p; rc_token=q"), b"rc_uid=u; rc_token=t", None),
            (b"", Some(b""), b"rc_uid=u; rc_token=t", None),
        ] {
            let onward = |rocketchats| onward(value, rocketchats).map(Cow::into_owned);
            let shown = String::from_utf8_lossy(value);
            assert_eq!(onward(Rocketchats::AsTheyCame).as_deref(), as_they_came, "{shown}");
            assert_eq!(onward(login).as_deref(), Some(with_login), "{shown}");
            assert_eq!(onward(Rocketchats::NoLogin).as_deref(), without, "{shown}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn what_is_kept_is_kept_to_the_byte(
            cookies in proptest::collection::vec(("[a-c]", proptest::collection::vec(prop_oneof![Just(b'='), Just(b'"'), 0x23_u8..=0x3a, 0x3c_u8..=0x7e, 0x80_u8..=0xff], 0..5)), 0..6),
            at in 0_usize..6,
        ) {
            let pairs: Vec<Vec<u8>> = cookies.iter().map(|(name, value)| [name.as_bytes(), b"=", value].concat()).collect();
            let (first, second) = pairs.split_at(at.min(pairs.len()));
            let headers = map(&[&first.join(&b"; "[..]), &second.join(&b"; "[..])]);
            let kept: Vec<Vec<u8>> = pairs.iter().filter(|p| p[0] != b'a').cloned().collect();
            let out = filtered(&headers, |name| name != "a");
            prop_assert_eq!(out.map(|v| v.as_bytes().to_vec()), (!kept.is_empty()).then(|| kept.join(&b"; "[..])));
        }
    }
}
