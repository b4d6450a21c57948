//! A trusted proxy in front has authenticated the caller and says who it is in request headers.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::claims::{self, Fault};
use super::{Credentials, Identity, Material, SessionKey, Validated, misconfigured, no_session};
use crate::config::HeaderIdentity;
use crate::error::Refusal;
use crate::peer::Peer;

pub(super) const SOURCE: &str = "header";

/// The source.
#[derive(Debug)]
pub(super) struct TrustedHeader {
    names: HeaderIdentity,
}

/// What the headers said, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    id: String,
    username: Option<String>,
    email: Option<String>,
    name: Option<String>,
    roles: Option<String>,
}

impl TrustedHeader {
    pub(super) fn new(names: HeaderIdentity) -> Self {
        Self { names }
    }

    pub(super) fn credentials(&self, headers: &HeaderMap, peer: &Peer) -> Result<Credentials, Refusal> {
        if !peer.trusted() {
            return Err(no_session(format!(
                "identity headers are believed from server.trusted_proxies only, and the peer {} is not in it",
                peer.ip()
            )));
        }
        let optional = |name: &Option<HeaderName>| name.as_ref().map_or(Ok(None), |name| one(headers, name));
        let id = one(headers, &self.names.id)?;
        let said = Said {
            id: id.ok_or_else(|| no_session(format!("the proxy in front sent no {} (identity.header.id)", self.names.id)))?,
            username: optional(&self.names.username)?,
            email: optional(&self.names.email)?,
            name: optional(&self.names.name)?,
            roles: optional(&self.names.roles)?,
        };
        Ok(Credentials::new(said.key(), Material::Said(Arc::new(said))))
    }

    pub(super) fn identify(&self, said: &Said) -> Result<Validated, Refusal> {
        let named = |name: Option<&HeaderName>| {
            let name = name.unwrap_or(&self.names.id).clone();
            move |fault: Fault| misconfigured(format!("the header {name} {fault}"))
        };
        let optional = |value: &Option<String>| value.as_deref().map_or(Ok(None), claims::text_if_any);
        let id = claims::exact_text(&said.id).map_err(named(None))?;
        let username = optional(&said.username).map_err(named(self.names.username.as_ref()))?;
        let email = optional(&said.email).map_err(named(self.names.email.as_ref()))?;
        let name = optional(&said.name).map_err(named(self.names.name.as_ref()))?;
        let roles = claims::words(said.roles.as_deref().unwrap_or_default(), |c| c == ',').map_err(named(self.names.roles.as_ref()))?;
        let identity = Identity {
            username: username.unwrap_or_else(|| id.clone()),
            id,
            email: email.as_deref().map(claims::lowered),
            email_trusted: true,
            name,
            roles,
            avatar: None,
        };
        Ok(Validated { identity: Arc::new(identity), expires: None, issued: None, sid: None })
    }
}

impl Said {
    fn key(&self) -> SessionKey {
        let fields = [&self.username, &self.email, &self.name, &self.roles];
        // A missing field is no part, an empty one is; which one is missing is told by its place.
        let places: Vec<u8> = fields.iter().map(|field| u8::from(field.is_some())).collect();
        let values = fields.into_iter().flatten().map(String::as_bytes);
        SessionKey::of(SOURCE, [places.as_slice(), self.id.as_bytes()].into_iter().chain(values))
    }
}

/// The one value of a header; `None` when it is missing or blank.
fn one(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        // One of them may be the caller's own.
        return Err(misconfigured(format!("the header {name} came more than once: the proxy in front must replace it, not add to it")));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| misconfigured(format!("the header {name} is not UTF-8")))?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::error::RefusalKind;

    fn source() -> TrustedHeader {
        let header = |name: &'static str| Some(HeaderName::from_static(name));
        TrustedHeader::new(HeaderIdentity {
            id: HeaderName::from_static("x-auth-request-user"),
            username: header("x-auth-request-preferred-username"),
            email: header("x-auth-request-email"),
            name: header("x-auth-request-name"),
            roles: header("x-auth-request-groups"),
        })
    }

    fn peer(trusted: bool) -> Peer {
        Peer::new("192.0.2.7:4711".parse().unwrap(), trusted, false)
    }

    fn map(pairs: Pairs<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    type Pairs<'a> = &'a [(&'static str, &'a [u8])];

    const ID: (&str, &[u8]) = ("x-auth-request-user", b"u-1");

    fn identified(pairs: Pairs<'_>) -> Result<Identity, Refusal> {
        let source = source();
        let credentials = source.credentials(&map(pairs), &peer(true))?;
        let Material::Said(said) = &credentials.material else { panic!("other material") };
        source.identify(said).map(|validated| Identity::clone(&validated.identity))
    }

    #[test]
    fn every_field_is_read_from_its_header() {
        let identity = identified(&[
            ID,
            ("x-auth-request-preferred-username", b"ada"),
            ("x-auth-request-email", b"Ada@Example.com"),
            ("x-auth-request-name", "Ada Löve".as_bytes()),
            ("x-auth-request-groups", b"staff, chat users,,"),
        ]);
        let expected = Identity {
            id: "u-1".to_owned(),
            username: "ada".to_owned(),
            email: Some("ada@example.com".to_owned()),
            email_trusted: true,
            name: Some("Ada Löve".to_owned()),
            roles: vec!["staff".to_owned(), "chat users".to_owned()],
            avatar: None,
        };
        assert_eq!(identity.unwrap(), expected);
    }

    #[test]
    fn the_id_stands_in_for_the_username() {
        for pairs in [&[ID] as Pairs<'_>, &[ID, ("x-auth-request-preferred-username", b" ")]] {
            let identity = identified(pairs).unwrap();
            assert_eq!((identity.username.as_str(), identity.email, identity.name), ("u-1", None, None));
        }
    }

    #[test]
    fn an_untrusted_peer_is_never_believed() {
        let refusal = source().credentials(&map(&[ID]), &peer(false)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NoSession);
        assert!(refusal.detail.contains("192.0.2.7") && refusal.detail.contains("server.trusted_proxies"), "{}", refusal.detail);
    }

    #[test]
    fn headers_that_cannot_be_used_are_named() {
        use RefusalKind::{Misconfigured, NoSession};
        let long = "x".repeat(600);
        let table: [(Pairs<'_>, RefusalKind, &str); 8] = [
            (&[], NoSession, "sent no x-auth-request-user"),
            (&[("x-auth-request-user", b"  ")], NoSession, "sent no x-auth-request-user"),
            (&[("x-auth-request-email", b"a@b.c")], NoSession, "sent no x-auth-request-user"),
            (&[ID, ID], Misconfigured, "x-auth-request-user came more than once"),
            (
                &[ID, ("x-auth-request-email", b"a@b.c"), ("x-auth-request-email", b"")],
                Misconfigured,
                "x-auth-request-email came more than once",
            ),
            (&[ID, ("x-auth-request-name", b"\xff")], Misconfigured, "x-auth-request-name is not UTF-8"),
            (&[("x-auth-request-user", long.as_bytes())], Misconfigured, "x-auth-request-user is longer than"),
            (&[ID, ("x-auth-request-name", b"a\tb")], Misconfigured, "x-auth-request-name holds control characters"),
        ];
        for (pairs, kind, expected) in table {
            let refusal = identified(pairs).unwrap_err();
            assert_eq!(refusal.kind, kind, "{}", refusal.detail);
            assert!(refusal.detail.contains(expected), "{}", refusal.detail);
        }
    }

    #[test]
    fn the_key_tells_the_fields_apart() {
        let key = |pairs: Pairs<'_>| source().credentials(&map(pairs), &peer(true)).unwrap().key;
        let keys = [
            key(&[ID]),
            key(&[ID, ("x-auth-request-preferred-username", b"ada")]),
            key(&[ID, ("x-auth-request-email", b"ada")]),
            key(&[ID, ("x-auth-request-name", b"ada")]),
            key(&[("x-auth-request-user", b"u-1ada")]),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| other != one));
        }
        assert_eq!(key(&[ID]), key(&[ID, ("x-other", b"1")]));
    }
}
