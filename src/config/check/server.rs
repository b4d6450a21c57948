//! `[server]` and the sections below it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use url::Url;

use super::reader::Reader;
use super::{files, rules};
use crate::config::{Acme, AcmeChallenge, ClientAuth, Http2, Origin, PairFiles, Server, Tls};

/// Let's Encrypt's staging directory.
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

pub(super) fn server(r: &mut Reader<'_>) -> Option<Server> {
    let listen = r.parse("server.listen", off_or_address);
    let public_url = r.parse("server.public_url", rules::base_url);
    if public_url.as_ref().is_some_and(|url| url.scheme() == "http" && !rules::is_loopback(url)) {
        let why = "is plain http: browsers keep cookies marked Secure back and send passwords and tokens in the clear; use https";
        r.warn("server.public_url", why);
    }
    let networks = r.each("server.trusted_proxies", rules::network);
    if networks.iter().any(|(_, net)| net.prefix_len() == 0) {
        r.warn("server.trusted_proxies", "trusts everybody: any client may then write its own X-Forwarded-For and identity headers");
    }
    let admin = r.parse("server.admin_listen", off_or_address);
    if let (Some(Some(listen)), Some(Some(admin))) = (listen, admin)
        && rules::collide(listen, admin)
    {
        r.problem("server.admin_listen", "is the address of server.listen too; take another port, such as 9090");
    }
    let acme = acme(r);
    let tls = tls(r);
    if let Some(tls) = &tls {
        for (other, path) in [(listen.flatten(), "server.listen"), (admin.flatten(), "server.admin_listen")] {
            if other.is_some_and(|other| rules::collide(other, tls.listen)) {
                r.problem("server.tls.listen", format!("is the address of {path} too; take another port, such as 8443"));
            }
        }
    }
    let unlisted = r.optional("server.tls.listen").is_none();
    if listen == Some(None) && unlisted {
        r.problem("server.listen", "is off, and there is no server.tls.listen: nobody could reach Gantry; set one of the two");
    }
    let redirect_to_https = r.bool("server.redirect_to_https");
    if redirect_to_https == Some(true) {
        if public_url.as_ref().is_some_and(|url| url.scheme() != "https") {
            r.problem("server.redirect_to_https", "needs an https:// server.public_url, which is where it leads");
        } else if unlisted {
            r.problem("server.redirect_to_https", "needs server.tls.listen: without it every request would be sent in circles");
        } else if listen == Some(None) {
            r.problem("server.redirect_to_https", "has no effect: it is about server.listen, and that is off");
        }
    }
    if let Some(acme) = &acme {
        if unlisted {
            r.problem("server.acme.domains", "needs server.tls.listen, where the certificate is shown");
        }
        if acme.challenge == AcmeChallenge::Http01 && listen == Some(None) {
            r.problem("server.acme.challenge", "is http-01, which is answered on server.listen, and that is off");
        }
        if acme.challenge == AcmeChallenge::TlsAlpn01 && tls.as_ref().is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)))
        {
            let why = "is tls-alpn-01, and server.tls.client_auth is \"required\": the authority has no certificate to show; use http-01";
            r.problem("server.acme.challenge", why);
        }
    }
    let proxy_protocol = r.each("server.proxy_protocol", rules::network).into_iter().map(|(_, net)| net).collect();
    let admin_token = r.secret("server.admin_token", 16);
    let drain_delay = r.duration_or_zero("server.drain_delay");
    let websocket_drain = r.duration_or_zero("server.websocket_drain");
    let http2 = http2(r);
    let workers: Option<usize> = r.integer("server.workers", 0..=1024);
    let header_timeout = r.duration("server.header_timeout");
    let shutdown_grace = r.duration_or_zero("server.shutdown_grace");
    if let (Some(delay), Some(spread), Some(grace)) = (drain_delay, websocket_drain, shutdown_grace)
        && !grace.is_zero()
        && delay + spread >= grace
    {
        r.warn("server.shutdown_grace", "ends before server.drain_delay and server.websocket_drain do: what is open then is cut off");
    }
    let public_url = public_url?;
    Some(Server {
        listen: listen?,
        public_origin: Origin::of(&public_url)?,
        public_url,
        trusted_proxies: networks.into_iter().map(|(_, net)| net).collect(),
        admin_listen: admin?,
        workers: workers.map(|workers| if workers == 0 { cores() } else { workers })?,
        header_timeout: header_timeout?,
        redirect_to_https: redirect_to_https?,
        proxy_protocol,
        admin_token,
        drain_delay: drain_delay?,
        websocket_drain: websocket_drain?,
        shutdown_grace: shutdown_grace?,
        tls,
        acme,
        http2: http2?,
    })
}

fn off_or_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" { Ok(None) } else { rules::address(text).map(Some) }
}

fn tls(r: &mut Reader<'_>) -> Option<Tls> {
    let listen = r.parse_optional("server.tls.listen", rules::address);
    let pair = pair(r, "server.tls.cert_file", "server.tls.key_file");
    let cert_dir = r.parse_optional("server.tls.cert_dir", files::directory);
    let only_tls13 = r.one_of("server.tls.min_version").map(|word| word == "1.3");
    let handshake_timeout = r.duration("server.tls.handshake_timeout");
    let client_ca = r.parse_optional("server.tls.client_ca_file", files::certificates);
    let client_auth = match r.one_of("server.tls.client_auth") {
        Some("off") | None => Some(ClientAuth::Off),
        Some(word) => {
            if client_ca.is_none() && r.optional("server.tls.client_ca_file").is_none() {
                r.problem("server.tls.client_ca_file", "is required with server.tls.client_auth: whose certificates are good?");
            }
            client_ca.map(|ca| if word == "required" { ClientAuth::Required(ca) } else { ClientAuth::Optional(ca) })
        }
    };
    let hsts = r.parse_optional("server.tls.hsts", rules::hsts);
    let wanted = r.optional("server.tls.listen").is_some();
    if !wanted {
        for path in ["server.tls.cert_file", "server.tls.cert_dir", "server.tls.hsts"] {
            if r.optional(path).is_some() {
                r.problem(path, "has no effect without server.tls.listen; set that too, such as \"0.0.0.0:8443\"");
            }
        }
        return None;
    }
    let nothing = ["server.tls.cert_file", "server.tls.key_file", "server.tls.cert_dir"].iter().all(|path| r.optional(path).is_none());
    if nothing && r.is_blank("server.acme.domains") {
        r.problem("server.tls.cert_file", "is required with server.tls.listen, unless there is a cert_dir or [server.acme]");
    }
    Some(Tls {
        listen: listen?,
        pair,
        cert_dir,
        only_tls13: only_tls13?,
        handshake_timeout: handshake_timeout?,
        client_auth: client_auth?,
        hsts,
    })
}

/// A certificate file and a key file, which belong together.
pub(super) fn pair(r: &mut Reader<'_>, cert_path: &str, key_path: &str) -> Option<PairFiles> {
    for (path, other) in [(cert_path, key_path), (key_path, cert_path)] {
        if r.optional(path).is_none() && r.optional(other).is_some() {
            r.problem(path, format!("is required beside {other}"));
        }
    }
    let cert = r.parse_optional(cert_path, files::certificates);
    let key = r.parse_optional(key_path, files::private_key);
    Some(PairFiles { cert: cert?, key: key? })
}

fn acme(r: &mut Reader<'_>) -> Option<Acme> {
    let domains: Vec<String> = r.each("server.acme.domains", rules::domain).into_iter().map(|(_, domain)| domain).collect();
    let contact = r.parse_optional("server.acme.contact", rules::email);
    let directory_url = r.parse("server.acme.directory_url", rules::url);
    let staging = r.bool("server.acme.staging");
    let challenge = r.one_of("server.acme.challenge");
    let cache_dir = r.needed("server.acme.cache_dir").map(PathBuf::from);
    let eab_key_id = r.optional("server.acme.eab_key_id").map(str::to_owned);
    let eab_hmac_key = r.secret("server.acme.eab_hmac_key", 0);
    let ca_file = r.parse_optional("server.acme.ca_file", files::certificates);
    if staging == Some(true) && r.is_written("server.acme.directory_url") {
        r.problem(
            "server.acme.staging",
            "stands beside server.acme.directory_url; keep one, since staging is Let's Encrypt's own test authority",
        );
    }
    if eab_key_id.is_some() != eab_hmac_key.is_some() {
        let missing = if eab_key_id.is_some() { "server.acme.eab_hmac_key" } else { "server.acme.eab_key_id" };
        r.problem(missing, "is required: an External Account Binding is a key id and a MAC key");
    }
    if domains.is_empty() {
        return None;
    }
    let directory_url = if staging == Some(true) { Url::parse(STAGING).ok() } else { directory_url };
    Some(Acme {
        domains,
        contact,
        directory_url: directory_url?,
        challenge: if challenge? == "http-01" { AcmeChallenge::Http01 } else { AcmeChallenge::TlsAlpn01 },
        cache_dir: cache_dir?,
        eab: eab_key_id.zip(eab_hmac_key),
        ca_file,
    })
}

fn http2(r: &mut Reader<'_>) -> Option<Http2> {
    let max_streams = r.integer("server.http2.max_streams", 1..=10_000);
    let max_header_list = r.integer("server.http2.max_header_list", 4_096..=1_048_576);
    let max_resets = r.integer("server.http2.max_resets", 1..=10_000);
    let ping_interval = r.duration_or_zero("server.http2.ping_interval");
    let ping_timeout = r.duration("server.http2.ping_timeout");
    let max_idle_frames = r.integer("server.http2.max_idle_frames", 100..=1_000_000);
    Some(Http2 {
        max_streams: max_streams?,
        max_header_list: max_header_list?,
        max_resets: max_resets?,
        ping_interval: ping_interval.map(|every| (!every.is_zero()).then_some(every))?,
        ping_timeout: ping_timeout?,
        max_idle_frames: max_idle_frames?,
    })
}

/// Cores that this process may use, container limits included.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessField, Audit, Config, Problem, load};

    /// A certificate and a key, as files.
    struct Pki {
        dir: tempfile::TempDir,
    }

    impl Pki {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let made = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]).unwrap();
            std::fs::write(dir.path().join("tls.crt"), made.cert.pem()).unwrap();
            std::fs::write(dir.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
            std::fs::write(dir.path().join("mac"), "c2VjcmV0").unwrap();
            Self { dir }
        }

        /// `@name` stands for a file in the directory, `@` for the directory.
        fn load(&self, flags: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
            let base = [
                ("server.public_url", "https://chat.example.com"),
                ("rocketchat.url", "http://127.0.0.1:3000"),
                ("rocketchat.user_id", "svc"),
                ("rocketchat.auth_token", "token"),
                ("identity.source", "forward_auth"),
                ("identity.forward_auth.url", "https://app.example.com/api/me"),
            ];
            let kept = base.iter().filter(|(key, _)| flags.iter().all(|(other, _)| other != key));
            let value = |value: &str| match value.strip_prefix('@') {
                Some(name) => self.dir.path().join(name).to_str().unwrap().to_owned(),
                None => value.to_owned(),
            };
            let flags: Vec<_> = kept.chain(flags).map(|(key, written)| ((*key).to_owned(), value(written))).collect();
            load(None, [], &flags).map(|loaded| loaded.config)
        }
    }

    const TLS: [(&str, &str); 3] =
        [("server.tls.listen", "0.0.0.0:8443"), ("server.tls.cert_file", "@tls.crt"), ("server.tls.key_file", "@tls.key")];

    #[test]
    fn a_tls_listener_with_everything() {
        let pki = Pki::new();
        let more = [
            ("server.listen", "off"),
            ("server.tls.min_version", "1.3"),
            ("server.tls.client_auth", "optional"),
            ("server.tls.client_ca_file", "@tls.crt"),
            ("server.tls.hsts", "max-age=31536000; includeSubDomains"),
            ("server.acme.domains", "Chat.Example.com, chat2.example.com"),
            ("server.acme.contact", "mailto:ops@example.com"),
            ("server.acme.staging", "true"),
            ("server.acme.eab_key_id", "kid"),
            ("server.acme.eab_hmac_key_file", "@mac"),
            ("server.http2.ping_interval", "0s"),
            ("log.access_fields", "status, user_agent"),
            ("log.audit", "hashed"),
        ];
        let config = pki.load(&[&TLS[..], &more].concat()).unwrap();
        assert_eq!(config.server.listen, None);
        let tls = config.server.tls.unwrap();
        assert!(tls.only_tls13 && tls.pair.is_some());
        assert!(matches!(tls.client_auth, ClientAuth::Optional(_)));
        assert_eq!(tls.hsts.unwrap(), "max-age=31536000; includeSubDomains");
        let acme = config.server.acme.unwrap();
        assert_eq!(acme.domains, ["chat.example.com", "chat2.example.com"]);
        assert_eq!(acme.contact.as_deref(), Some("ops@example.com"));
        assert_eq!(acme.directory_url.as_str(), STAGING);
        assert_eq!(acme.eab.unwrap().1.get().expose(), "c2VjcmV0");
        assert_eq!(config.server.http2.ping_interval, None);
        assert_eq!(config.log.access_fields, [AccessField::Status, AccessField::UserAgent]);
        assert_eq!(config.log.audit, Audit::Hashed);
    }

    #[test]
    fn what_does_not_fit_together_is_told_with_its_key() {
        let pki = Pki::new();
        let acme = ("server.acme.domains", "chat.example.com");
        let tables: &[(&[(&str, &str)], &str)] = &[
            (&[("server.listen", "off")], "server.listen"),
            (&[("server.tls.listen", "0.0.0.0:8443")], "server.tls.cert_file"),
            (&[("server.tls.cert_file", "@tls.crt"), ("server.tls.key_file", "@tls.key")], "server.tls.cert_file"),
            (&[TLS[0], TLS[1]], "server.tls.key_file"),
            (&[TLS[0], ("server.tls.cert_file", "@tls.key"), TLS[2]], "server.tls.cert_file"),
            (&[TLS[0], TLS[1], ("server.tls.key_file", "@tls.crt")], "server.tls.key_file"),
            (&[TLS[0], ("server.tls.cert_dir", "@nowhere")], "server.tls.cert_dir"),
            (&[("server.tls.listen", "127.0.0.1:8080"), TLS[1], TLS[2]], "server.tls.listen"),
            (&[("server.tls.listen", "127.0.0.1:9090"), TLS[1], TLS[2]], "server.tls.listen"),
            (&[TLS[0], TLS[1], TLS[2], ("rocketchat.url", "http://127.0.0.1:8443")], "rocketchat.url"),
            (&[TLS[0], TLS[1], TLS[2], ("server.tls.client_auth", "required")], "server.tls.client_ca_file"),
            (&[TLS[0], TLS[1], TLS[2], ("server.tls.hsts", "31536000")], "server.tls.hsts"),
            (&[("server.redirect_to_https", "true")], "server.redirect_to_https"),
            (
                &[TLS[0], TLS[1], TLS[2], ("server.redirect_to_https", "true"), ("server.public_url", "http://localhost")],
                "server.redirect_to_https",
            ),
            (&[TLS[0], TLS[1], TLS[2], ("server.redirect_to_https", "true"), ("server.listen", "off")], "server.redirect_to_https"),
            (&[("server.tls.hsts", "max-age=1")], "server.tls.hsts"),
            (&[acme], "server.acme.domains"),
            (&[TLS[0], ("server.acme.domains", "*.example.com")], "server.acme.domains"),
            (&[TLS[0], ("server.acme.domains", "192.0.2.7")], "server.acme.domains"),
            (&[TLS[0], acme, ("server.acme.contact", "ops")], "server.acme.contact"),
            (&[TLS[0], acme, ("server.acme.challenge", "dns-01")], "server.acme.challenge"),
            (&[TLS[0], acme, ("server.acme.challenge", "http-01"), ("server.listen", "off")], "server.acme.challenge"),
            (&[TLS[0], acme, ("server.acme.eab_key_id", "kid")], "server.acme.eab_hmac_key"),
            (
                &[TLS[0], acme, ("server.acme.staging", "true"), ("server.acme.directory_url", "https://ca.example.com/")],
                "server.acme.staging",
            ),
            (&[("server.proxy_protocol", "10.0.0.0/40")], "server.proxy_protocol"),
            (&[("server.http2.max_streams", "0")], "server.http2.max_streams"),
            (&[("server.http2.ping_timeout", "0s")], "server.http2.ping_timeout"),
            (&[("server.http2.max_idle_frames", "0")], "server.http2.max_idle_frames"),
            (&[("limits.connections", "-1")], "limits.connections"),
            (&[("limits.connections_per_client", "-1")], "limits.connections_per_client"),
            (&[("limits.request_head", "1000")], "limits.request_head"),
            (&[("limits.request_fields", "0")], "limits.request_fields"),
            (&[("limits.request_target", "60_000"), ("limits.request_head", "50_000")], "limits.request_target"),
            (&[("limits.request_target", "70_000"), ("limits.request_head", "100_000")], "limits.request_target"),
            (&[("limits.send_timeout", "0s")], "limits.send_timeout"),
            (&[("rocketchat.tls.server_name", "chat.internal")], "rocketchat.tls.server_name"),
            (&[("rocketchat.tls.client_key_file", "@tls.key")], "rocketchat.tls.client_cert_file"),
            (&[("upstream.platform_roots", "false")], "upstream.platform_roots"),
            (&[("log.access_fields", "id, cookie")], "log.access_fields"),
            (&[("log.audit", "none")], "log.audit"),
        ];
        for (flags, key) in tables {
            let problems = pki.load(flags).expect_err(&format!("{flags:?}"));
            assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [*key], "{flags:?} {problems:?}");
        }
    }
}
