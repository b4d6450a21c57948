//! The WebSocket, tried at each stage: straight at the workspace, at Gantry's own listener, and by the public
//! address. Where it breaks first is what has to be mended.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Request};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::error::{Error, UrlError};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Message;
use url::Url;

use super::front::Front;
use super::look::{self, Eyes, PATIENCE, Seen};
use super::{bad, good, skipped, warning};
use crate::config::Config;
use crate::doctor::Finding;
use crate::outbound::connect::Stream;

const CHECK: &str = "websocket";

/// The first message of every client of the workspace.
const HELLO: &str = r#"{"msg":"connect","version":"1","support":["1","pre2","pre1"]}"#;
/// How long the answer to it may take.
const ANSWER: Duration = Duration::from_secs(3);

/// How a try came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// A message went there, and one came back.
    Works,
    /// The upgrade was granted, and then nothing came back.
    Silent,
    /// Another answer than an upgrade.
    Refused(u16, Front),
    /// The handshake was answered wrongly.
    Broken(String),
    /// No connection.
    Unreachable(String),
}

/// All stages.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    workspace: Try,
    gantry: Option<Try>,
    public: Try,
}

impl Sockets {
    /// Tries all stages at once.
    pub(super) async fn try_all(config: &Config, eyes: &Eyes) -> Self {
        let public = look::at(&config.server.public_url, "/websocket");
        let local = look::local_url(config, "/websocket");
        let gantry = async {
            match &local {
                Some(url) => Some(attempt(eyes, url, &public).await),
                None => None,
            }
        };
        let direct = look::rest(config, "/websocket");
        let (workspace, gantry, public) = tokio::join!(attempt(eyes, &direct, &direct), gantry, attempt(eyes, &public, &public));
        Self { workspace, gantry, public }
    }
}

/// Opens a WebSocket at `url` as a page of `site` does, says hello, and waits for a word.
async fn attempt(eyes: &Eyes, url: &Url, site: &Url) -> Try {
    let tried = async {
        let stream = match eyes.connect(url).await {
            Ok(stream) => stream,
            Err(why) => return Try::Unreachable(why),
        };
        converse(stream, url, site).await
    };
    tokio::time::timeout(PATIENCE, tried).await.unwrap_or(Try::Silent)
}

async fn converse(stream: Stream, url: &Url, site: &Url) -> Try {
    let Some(request) = request(url, site) else { return Try::Broken(format!("{url} is no address of a WebSocket")) };
    let mut socket = match client_async(request, stream).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            let (parts, _) = response.into_parts();
            let reply = crate::outbound::api::Reply { status: parts.status, headers: parts.headers, body: bytes::Bytes::new() };
            return Try::Refused(reply.status.as_u16(), Front::of(Some(&reply)));
        }
        Err(Error::Url(UrlError::UnsupportedUrlScheme)) => return Try::Broken("the address is not http or https".to_owned()),
        Err(error) => return Try::Broken(error.to_string()),
    };
    if let Err(error) = socket.send(Message::text(HELLO)).await {
        return Try::Broken(error.to_string());
    }
    let word = async {
        while let Some(came) = socket.next().await {
            match came {
                Ok(Message::Text(_) | Message::Binary(_)) => return Try::Works,
                Ok(Message::Close(_)) => break,
                Ok(_) => {}
                Err(error) => return Try::Broken(error.to_string()),
            }
        }
        Try::Broken("it was closed at once".to_owned())
    };
    let outcome = tokio::time::timeout(ANSWER, word).await.unwrap_or(Try::Silent);
    // Dropping it would do as well; a goodbye keeps the logs quiet.
    let _ = tokio::time::timeout(Duration::from_millis(200), socket.close(None)).await;
    outcome
}

fn request(url: &Url, site: &Url) -> Option<Request<()>> {
    let mut address = url.clone();
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    // The url crate does not change between special schemes and others, but these are all special.
    address.set_scheme(scheme).ok()?;
    let host = &site[url::Position::BeforeHost..url::Position::AfterPort];
    Request::builder()
        .uri(address.as_str())
        .header(HOST, host)
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(UPGRADE, HeaderValue::from_static("websocket"))
        .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .header(ORIGIN, site.origin().ascii_serialization())
        .body(())
        .ok()
}

/// One finding: where it breaks first.
pub(super) fn checks(config: &Config, seen: &Seen, sockets: &Sockets) -> Vec<Finding> {
    vec![judge(config, Front::of(seen.session.reply()), sockets)]
}

fn judge(config: &Config, front: Front, sockets: &Sockets) -> Finding {
    let direct = look::rest(config, "/websocket");
    let public = look::at(&config.server.public_url, "/websocket");
    let Sockets { workspace, gantry, public: outside } = sockets;
    if *outside == Try::Works {
        return good(
            CHECK,
            format!(
                "{public} opens and answers; an idle time-out in between cannot be seen: it has to be over 60s (nginx: proxy_read_timeout 1h;)"
            ),
        );
    }
    if *workspace != Try::Works {
        let (seen, why) = (words(workspace), "the workspace itself");
        if let Try::Unreachable(_) = workspace {
            return skipped(CHECK, format!("{direct} {seen}, see the checks of the workspace"));
        }
        return bad(
            CHECK,
            format!("{direct}: {why} {seen}"),
            "point [rocketchat] url at Rocket.Chat's own port (3000), not at another proxy that does not pass upgrades on; with microservices at \
             what leads /websocket to its ddp-streamer",
        );
    }
    match (outside, gantry) {
        (Try::Unreachable(why), _) => skipped(CHECK, format!("{public} cannot be reached from here ({why}), see public.reachable")),
        (_, Some(broken @ (Try::Silent | Try::Refused(..) | Try::Broken(_)))) => {
            let address = look::local_url(config, "/websocket").map(|url| url.to_string()).unwrap_or_default();
            bad(
                CHECK,
                format!("{direct} works, but what listens on {address} {}", words(broken)),
                "make sure that it is Gantry that listens there, with this configuration, and look at its log",
            )
        }
        (broken, gantry) => {
            let front = if let Try::Refused(_, named) = broken { if *named == Front::Unseen { front } else { *named } } else { front };
            let here = if matches!(gantry, Some(Try::Works)) {
                "works at the workspace and through Gantry's own listener"
            } else {
                "works at the workspace"
            };
            let seen = format!("the WebSocket {here}, but {public} {}: {} breaks it", words(broken), front.name());
            if matches!(broken, Try::Silent) { warning(CHECK, seen, lines(config, front)) } else { bad(CHECK, seen, lines(config, front)) }
        }
    }
}

fn words(tried: &Try) -> String {
    match tried {
        Try::Works => "works".to_owned(),
        Try::Silent => "grants the upgrade, and then nothing comes through (buffering?)".to_owned(),
        Try::Refused(status, _) => format!("answers {status} to the upgrade"),
        Try::Broken(why) => format!("breaks the WebSocket ({})", super::shown(why)),
        Try::Unreachable(why) => format!("cannot be reached ({})", super::shown(why)),
    }
}

/// The lines that let an upgrade through.
fn lines(config: &Config, front: Front) -> String {
    let listen = look::local_url(config, "/").map_or_else(|| "http://GANTRY".to_owned(), |url| url.origin().ascii_serialization());
    let socket = listen.replacen("http", "ws", 1);
    let nginx = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\"; proxy_buffering off; proxy_read_timeout 1h;";
    match front {
        Front::Nginx => format!("in nginx's location: {nginx} (ingress-nginx: annotation nginx.ingress.kubernetes.io/proxy-read-timeout: \"3600\")"),
        Front::Apache => format!("in Apache: a2enmod proxy_wstunnel, and ProxyPass / {listen}/ upgrade=websocket timeout=3600 (before 2.4.47: ProxyPass /websocket {socket}/websocket)"),
        Front::Caddy => format!("in Caddy: reverse_proxy {listen}, and no request_header or handle that takes Upgrade away"),
        Front::Envoy => "in Envoy's http_connection_manager: upgrade_configs: [{upgrade_type: websocket}], and timeout: 0s on the route".to_owned(),
        Front::Cloudflare => "in Cloudflare's dashboard: Network > WebSockets on".to_owned(),
        Front::Aws => "use an Application Load Balancer (a Classic one passes no WebSockets on), idle timeout 3600; in CloudFront forward all headers of /websocket".to_owned(),
        Front::Other | Front::Unseen => format!("in nginx's location: {nginx} In HAProxy: timeout tunnel 1h. In Apache: ProxyPass / {listen}/ upgrade=websocket"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    #[test]
    fn the_first_break_is_named() {
        let config = config::example(&[("server.listen", "127.0.0.1:8080")]);
        let refused = |front| Try::Refused(400, front);
        let down = || Try::Unreachable("Connection refused".to_owned());
        for (workspace, gantry, public, verdict, seen, fix) in [
            (Try::Works, Some(Try::Works), Try::Works, Verdict::Good, "opens and answers", ""),
            (
                Try::Works,
                Some(Try::Works),
                refused(Front::Nginx),
                Verdict::Bad,
                "nginx breaks it",
                "proxy_set_header Upgrade $http_upgrade;",
            ),
            (Try::Works, Some(Try::Works), refused(Front::Unseen), Verdict::Bad, "answers 400 to the upgrade", "timeout tunnel 1h"),
            (Try::Works, None, refused(Front::Apache), Verdict::Bad, "Apache breaks it", "upgrade=websocket"),
            (Try::Works, Some(Try::Works), Try::Silent, Verdict::Warning, "nothing comes through", "proxy_buffering off;"),
            (
                Try::Works,
                Some(refused(Front::Unseen)),
                refused(Front::Unseen),
                Verdict::Bad,
                "127.0.0.1:8080",
                "make sure that it is Gantry",
            ),
            (
                refused(Front::Nginx),
                Some(refused(Front::Nginx)),
                refused(Front::Nginx),
                Verdict::Bad,
                "the workspace itself",
                "[rocketchat] url",
            ),
            (down(), Some(Try::Silent), refused(Front::Unseen), Verdict::Skipped, "see the checks of the workspace", ""),
            (Try::Works, Some(Try::Works), down(), Verdict::Skipped, "public.reachable", ""),
        ] {
            let finding = judge(&config, Front::Unseen, &Sockets { workspace, gantry, public });
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{finding:?}");
        }
    }
}
