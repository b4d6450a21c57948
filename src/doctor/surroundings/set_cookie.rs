//! `Set-Cookie`, read as browsers do (RFC 6265bis §5.6), for its attributes. Values are not kept.

/// Who else's requests a cookie goes along with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SameSite {
    /// Not said: browsers take it for `Lax`.
    Unsaid,
    /// Requests of any site.
    None,
    /// Of its own site, and top-level navigations.
    Lax,
    /// Of its own site only.
    Strict,
}

/// A cookie that a server sets: its name and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetCookie {
    /// Its name.
    pub(super) name: String,
    /// `Domain`, lower-cased, without the dot in front.
    pub(super) domain: Option<String>,
    /// `Path`.
    pub(super) path: Option<String>,
    /// `SameSite`.
    pub(super) same_site: SameSite,
    /// `Secure`.
    pub(super) secure: bool,
    /// `Partitioned`.
    pub(super) partitioned: bool,
    /// Whether it takes a cookie away rather than setting one.
    pub(super) removes: bool,
}

impl SetCookie {
    /// Reads one header value; `None` when it names no cookie.
    pub(super) fn read(value: &str) -> Option<Self> {
        let mut parts = value.split(';');
        let (name, content) = parts.next()?.split_once('=')?;
        let name = name.trim();
        if name.is_empty() {
            return None;
        }
        let mut cookie = Self {
            name: name.to_owned(),
            domain: None,
            path: None,
            same_site: SameSite::Unsaid,
            secure: false,
            partitioned: false,
            removes: content.trim().is_empty(),
        };
        for part in parts {
            let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match attribute.trim().to_ascii_lowercase().as_str() {
                "domain" => {
                    let domain = value.strip_prefix('.').unwrap_or(value).to_ascii_lowercase();
                    cookie.domain = Some(domain).filter(|domain| !domain.is_empty());
                }
                "path" => cookie.path = value.starts_with('/').then(|| value.to_owned()),
                "samesite" => {
                    cookie.same_site = match value.to_ascii_lowercase().as_str() {
                        "none" => SameSite::None,
                        "lax" => SameSite::Lax,
                        "strict" => SameSite::Strict,
                        _ => SameSite::Unsaid,
                    };
                }
                "secure" => cookie.secure = true,
                "partitioned" => cookie.partitioned = true,
                "max-age" => cookie.removes |= value.parse::<i64>().is_ok_and(|age| age <= 0),
                _ => {}
            }
        }
        Some(cookie)
    }
}

/// Whether a cookie of this `Domain` goes to `host` (RFC 6265 §5.1.3).
pub(super) fn covers(domain: &str, host: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a cookie of this `Path` goes to `path` (RFC 6265 §5.1.4).
pub(super) fn path_covers(cookie: &str, path: &str) -> bool {
    path == cookie || path.strip_prefix(cookie).is_some_and(|rest| cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_any_case_and_order() {
        let cookie =
            SetCookie::read("sid=s3cret==; samesite=STRICT ;SECURE; Domain=.Example.com; path=/app; Partitioned; HttpOnly").unwrap();
        let expected = SetCookie {
            name: "sid".into(),
            domain: Some("example.com".into()),
            path: Some("/app".into()),
            same_site: SameSite::Strict,
            secure: true,
            partitioned: true,
            removes: false,
        };
        assert_eq!(cookie, expected);
        assert!(!format!("{cookie:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let cookie = SetCookie::read("sid=1; Domain=; Path=app; SameSite=weird").unwrap();
        assert_eq!((cookie.domain, cookie.path, cookie.same_site, cookie.secure), (None, None, SameSite::Unsaid, false));
        for removing in ["sid=; Path=/", "sid=x; Max-Age=0", "sid=x; max-age=-1"] {
            assert!(SetCookie::read(removing).unwrap().removes, "{removing}");
        }
        for none in ["", "sid", "=x", " = ; Secure"] {
            assert_eq!(SetCookie::read(none), None, "{none}");
        }
    }

    #[test]
    fn domains_and_paths_cover_what_browsers_say() {
        for (domain, host, expected) in [
            ("example.com", "chat.example.com", true),
            ("example.com", "example.com", true),
            ("app.example.com", "chat.example.com", false),
            ("ample.com", "example.com", false),
        ] {
            assert_eq!(covers(domain, host), expected, "{domain} {host}");
        }
        for (cookie, path, expected) in [
            ("/", "/x", true),
            ("/x", "/x", true),
            ("/x", "/x/y", true),
            ("/x/", "/x/y", true),
            ("/x", "/xy", false),
            ("/app", "/_gantry/token", false),
        ] {
            assert_eq!(path_covers(cookie, path), expected, "{cookie} {path}");
        }
    }
}
