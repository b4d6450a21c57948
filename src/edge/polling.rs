//! `SockJS` without a WebSocket, which clients fall back to where a network lets none through: what goes on there as far
//! as chat sessions go. It is the same as in a WebSocket ([`super::watch`]), but in pieces: what a client says comes in
//! requests of its own (`xhr_send`, `jsonp_send`), and what it hears in others (`xhr`, `xhr_streaming`, `eventsource`,
//! `jsonp`, `htmlfile`), over whatever connections, held together by an id in the path.
//!
//! The paths are those of `SockJS`'s server for Node.js, which Meteor uses: it goes by the last three segments as they
//! are written, and by the id alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::mpsc;
use url::form_urlencoded;

use super::ddp::{self, Call};
use super::guard::Guard;
use crate::body::{Body, BodyError};
use crate::error::Failure;
use crate::login::Login;
use crate::login::polls::{Poll, PollKey};
use crate::metrics::{Shard, SocketEnd, Unread};
use crate::outbound::http1::body::PooledBody;
use crate::outbound::http1::upload::Arriving;
use crate::peer::Peer;
use crate::tokens::Found;

/// Pieces that wait for a slow client.
const AHEAD: usize = 1;
/// How `SockJS`'s server closes a session that is no more: code and words are its own.
const CLOSE: &str = "c[3000,\"Go away!\"]";
/// The longest name of a function that a script is wrapped in.
const LONGEST_CALLBACK: usize = 128;

/// A request of a client without a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    key: PollKey,
    way: Way,
}

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It says something.
    Says,
    /// It hears the next messages.
    Hears(Hears),
}

/// How messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    Xhr,
    XhrStreaming,
    EventSource,
    Jsonp,
    HtmlFile,
}

impl Hears {
    /// Messages keep coming in one answer.
    fn streams(self) -> bool {
        matches!(self, Self::XhrStreaming | Self::EventSource | Self::HtmlFile)
    }

    /// The close frame, in front of which a message has ended.
    fn close(self) -> Option<Bytes> {
        match self {
            Self::Xhr | Self::XhrStreaming => Some(Bytes::from(format!("{CLOSE}\n"))),
            Self::EventSource => Some(Bytes::from(format!("data: {CLOSE}\r\n\r\n"))),
            // Its frames are scripts in a page. It asks again when the page has ended, and is refused then.
            Self::HtmlFile | Self::Jsonp => None,
        }
    }
}

/// What a client says, once it was looked into.
#[derive(Debug)]
enum Said {
    /// It goes on as it came, or with this in its place.
    GoesOn(Option<Bytes>),
    /// It would sign in, and there is no room.
    Full,
}

impl Asked {
    /// Whether a request is one, and what for.
    pub(super) fn of(request: &Parts) -> Option<Self> {
        let path = request.uri.path();
        // Nearly every path is another one.
        memchr::memmem::find(path.as_bytes(), b"/sockjs/")?;
        let mut segments = path.strip_suffix('/').unwrap_or(path).rsplit('/');
        let (way, id, _server) = (segments.next()?, segments.next()?, segments.next()?);
        if segments.next() != Some("sockjs") || id.is_empty() {
            return None;
        }
        let way = match (&request.method, way) {
            (&Method::POST, "xhr_send" | "jsonp_send") => Way::Says,
            (&Method::POST, "xhr") => Way::Hears(Hears::Xhr),
            (&Method::POST, "xhr_streaming") => Way::Hears(Hears::XhrStreaming),
            (&Method::GET, "eventsource") => Way::Hears(Hears::EventSource),
            (&Method::GET, "jsonp") => Way::Hears(Hears::Jsonp),
            (&Method::GET, "htmlfile") => Way::Hears(Hears::HtmlFile),
            _ => return None,
        };
        Some(Self { key: PollKey::of(id), way })
    }

    /// An answer of ours to whoever's chat session is over: what `SockJS`'s server says of a session that is no more.
    fn over(self, request: &Parts) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let (kind, body) = match self.way {
            Way::Hears(hears @ (Hears::Xhr | Hears::XhrStreaming)) => ("application/javascript; charset=UTF-8", hears.close()),
            Way::Hears(hears @ Hears::EventSource) => ("text/event-stream; charset=UTF-8", hears.close()),
            Way::Hears(Hears::Jsonp) if let Some(callback) = callback(request) => {
                ("application/javascript; charset=UTF-8", Some(Bytes::from(format!("/**/{callback}({});\r\n", json!(CLOSE)))))
            }
            _ => ("text/plain; charset=UTF-8", None),
        };
        match body {
            Some(body) => *response.body_mut() = body,
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// The function that a script is to be wrapped in, if it is the name of one and nothing else.
fn callback(request: &Parts) -> Option<String> {
    let query = form_urlencoded::parse(request.uri.query()?.as_bytes());
    let (_, name) = query.into_iter().find(|(name, _)| name == "c" || name == "callback")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (!name.is_empty() && name.len() <= LONGEST_CALLBACK && name.bytes().all(fits)).then(|| name.into_owned())
}

/// Bounds on what a client says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// `limits.websocket_message`
    pub(super) message: usize,
    /// How long it may take to come.
    pub(super) time: Duration,
}

/// Where such requests are looked at.
pub(super) struct Polling<'p> {
    pub(super) login: &'p Login,
    pub(super) guard: &'p Guard,
    pub(super) shard: &'p Arc<Shard>,
    pub(super) bounds: Bounds,
    pub(super) peer: &'p Peer,
}

impl Polling<'_> {
    /// Answers a request; `pass` has it answered by the workspace, or by us.
    pub(super) async fn answer(
        &self,
        asked: Asked,
        request: &Parts,
        mut body: Incoming,
        pass: impl AsyncFnOnce(Option<Parts>, Arriving) -> Result<Response<Body<PooledBody>>, Failure>,
        ours: impl FnOnce(Response<Bytes>) -> Response<Body<PooledBody>>,
    ) -> Result<Response<Body<PooledBody>>, Failure> {
        let poll = self.login.polls().get(asked.key).or_else(|| self.by_cookie(asked, request));
        if let Some(poll) = poll.as_deref().filter(|poll| poll.chat().is_over()) {
            self.tell(poll);
            if !body.is_end_stream() {
                self.peer.note_unread();
            }
            return Ok(ours(asked.over(request)));
        }
        let Way::Hears(hears) = asked.way else {
            let read = tokio::time::timeout(self.bounds.time, read(&mut body, self.bounds.message)).await;
            let (read, whole) = read.map_err(|_| Failure::RequestTimeout(self.bounds.time))??;
            let mut instead = None;
            if whole {
                match self.said(asked, request, &read) {
                    Said::GoesOn(other) => instead = other,
                    Said::Full => return Ok(ours(full())),
                }
            } else {
                self.shard.unread(Unread::TooLong);
            }
            let parts = onward(request, instead.as_ref().map(Bytes::len));
            return pass(Some(parts), Arriving::after(instead.unwrap_or(read), (!whole).then_some(body))).await;
        };
        let over = async {
            match &poll {
                Some(poll) => poll.chat().over().await,
                None => std::future::pending().await,
            }
        };
        let response = tokio::select! {
            response = pass(None, body.into()) => response?,
            () = over => {
                if let Some(poll) = &poll {
                    self.tell(poll);
                }
                return Ok(ours(asked.over(request)));
            }
        };
        if !hears.streams() || response.status() != StatusCode::OK {
            return Ok(response);
        }
        // What is coded is cut off without a word.
        let close = hears.close().filter(|_| !response.headers().contains_key(CONTENT_ENCODING));
        let (login, shard, key) = (self.login.clone(), Arc::clone(self.shard), asked.key);
        Ok(response.map(|body| until_over(body, login, shard, key, close)))
    }

    /// One that is not known, though its browser has a chat session: it signed in before we were started, and does not
    /// say so again.
    fn by_cookie(&self, asked: Asked, request: &Parts) -> Option<Arc<Poll>> {
        let chat = self.login.chat_by_cookie(&request.headers, self.peer, self.guard.missing(request))?;
        self.login.polls().sign_in(asked.key, &chat).ok()?;
        self.login.polls().get(asked.key)
    }

    fn tell(&self, poll: &Poll) {
        if poll.tell() {
            self.shard.socket_ended(SocketEnd::Over);
        }
    }

    /// Takes note of what a client says, before it goes on.
    fn said(&self, asked: Asked, request: &Parts, body: &[u8]) -> Said {
        let form = is_form(request);
        let texts = if form { fields(body) } else { vec![String::from_utf8_lossy(body).into_owned()] };
        if !texts.iter().any(|text| ddp::may_call(text.as_bytes())) {
            return Said::GoesOn(None);
        }
        // Several fields are several messages, as they are.
        let mut messages = match &texts[..] {
            [one] if !one.trim_start().starts_with('{') => ddp::unframed(one),
            several => several.to_vec(),
        };
        let came = self.login.came(&request.headers, self.peer, self.guard.missing(request));
        let (mut refused, mut full) = (false, false);
        for message in &mut messages {
            let mut instead = None;
            ddp::calls(message.as_bytes(), |call| match call {
                Call::Login(resume) => match self.login.known(&resume.token, came.as_ref()) {
                    Found::Living(chat) => full |= self.login.polls().sign_in(asked.key, &chat).is_err(),
                    Found::Over => instead = Some(resume.with_no_token()),
                    // See `watch`.
                    Found::Unknown => {}
                },
                Call::Logout => {
                    if let Some(poll) = self.login.polls().sign_out(asked.key) {
                        self.login.person_logged_out(poll.chat().token().expose());
                    }
                }
            });
            if let Some(instead) = instead {
                (*message, refused) = (instead, true);
                self.shard.socket_ended(SocketEnd::Refused);
            }
        }
        if full {
            return Said::Full;
        }
        Said::GoesOn(refused.then(|| {
            let list = json!(messages).to_string();
            if form { form_urlencoded::Serializer::new(String::new()).append_pair("d", &list).finish().into() } else { list.into() }
        }))
    }
}

/// Whether the server takes a body for a form: it compares the words as they are.
fn is_form(request: &Parts) -> bool {
    let kind = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.split(|byte| *byte == b';').next() == Some(b"application/x-www-form-urlencoded")
}

/// The fields of a form that say something.
fn fields(body: &[u8]) -> Vec<String> {
    form_urlencoded::parse(body).filter(|(name, _)| name == "d").map(|(_, text)| text.into_owned()).collect()
}

/// Reads a body; what has come once it is longer than `most`, and whether it is whole.
async fn read(body: &mut Incoming, most: usize) -> Result<(Bytes, bool), Failure> {
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::BadRequest("its body breaks off"))?;
        let Ok(data) = frame.into_data() else { continue };
        held.extend_from_slice(&data);
        if held.len() > most {
            return Ok((held.freeze(), false));
        }
    }
    Ok((held.freeze(), true))
}

/// The head of a request whose body was read here, and may have become another one.
fn onward(request: &Parts, length: Option<usize>) -> Parts {
    let mut onward = request.clone();
    // It was answered by reading.
    onward.headers.remove(EXPECT);
    if let Some(length) = length.filter(|_| onward.headers.contains_key(CONTENT_LENGTH)) {
        onward.headers.insert(CONTENT_LENGTH, length.into());
    }
    onward
}

fn full() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"Too many clients are signed in without a WebSocket: limits.polled_sessions"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("30"));
    response
}

/// Messages on their way to a client until the chat session is over that it has signed in with. It may sign in while
/// they come, so that each is a reason to look.
fn until_over(body: Body<PooledBody>, login: Login, shard: Arc<Shard>, key: PollKey, close: Option<Bytes>) -> Body<PooledBody> {
    let (pieces, fed) = mpsc::channel(AHEAD);
    tokio::task::spawn_local(async move {
        if let Err(error) = feed(body, &login, &shard, key, close, &pieces).await {
            // Nobody listens any more when this cannot be sent.
            drop(pieces.send(Err(error)).await);
        }
    });
    Body::Fed(fed)
}

async fn feed(
    mut body: Body<PooledBody>,
    login: &Login,
    shard: &Shard,
    key: PollKey,
    close: Option<Bytes>,
    pieces: &mpsc::Sender<Result<Bytes, BodyError>>,
) -> Result<(), BodyError> {
    let mut ended_line = true;
    let mut poll = login.polls().get(key);
    loop {
        let over = async {
            match &poll {
                Some(poll) => poll.chat().over().await,
                None => std::future::pending().await,
            }
        };
        let data = tokio::select! {
            biased;
            () = over => {
                if poll.as_ref().is_some_and(|poll| poll.tell()) {
                    shard.socket_ended(SocketEnd::Over);
                }
                return match close.filter(|_| ended_line) {
                    Some(close) => {
                        drop(pieces.send(Ok(close)).await);
                        Ok(())
                    }
                    None => Err("the chat session is over".into()),
                };
            }
            () = pieces.closed() => return Ok(()),
            frame = body.frame() => match frame {
                None => return Ok(()),
                Some(frame) => frame?.into_data().unwrap_or_default(),
            },
        };
        poll = login.polls().get(key);
        if data.is_empty() {
            continue;
        }
        if poll.as_ref().is_some_and(|poll| poll.chat().is_over()) {
            // It was said to somebody who is no more.
            continue;
        }
        ended_line = data.ends_with(b"\n");
        if pieces.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(method: &str, target: &str) -> Parts {
        Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_paths_are_those_of_the_server() {
        let says = Some(Way::Says);
        let hears = |hears| Some(Way::Hears(hears));
        for (method, path, expected) in [
            ("POST", "/sockjs/1/abc/xhr_send", says),
            ("POST", "/sockjs/1/abc/jsonp_send?x=/", says),
            ("POST", "/chat/sockjs/1/abc/xhr/", hears(Hears::Xhr)),
            ("POST", "/sockjs/1/abc/xhr_streaming?t=1", hears(Hears::XhrStreaming)),
            ("GET", "/sockjs/1/abc/eventsource", hears(Hears::EventSource)),
            ("GET", "/sockjs/1/abc/jsonp?c=a", hears(Hears::Jsonp)),
            ("GET", "/sockjs/1/abc/htmlfile?c=a", hears(Hears::HtmlFile)),
            // Others', or nobody's.
            ("GET", "/sockjs/1/abc/websocket", None),
            ("GET", "/sockjs/1/abc/xhr_send", None),
            ("OPTIONS", "/sockjs/1/abc/xhr_send", None),
            ("GET", "/sockjs/info", None),
            ("POST", "/sockjs/1//xhr_send", None),
            ("POST", "/sockjs/1/abc/xhr_send//", None),
            ("POST", "/sockjs/abc/xhr_send", None),
            ("POST", "/sockjs/0/1/abc/xhr_send", None),
            ("POST", "/api/v1/sockjs", None),
        ] {
            assert_eq!(Asked::of(&request(method, path)).map(|asked| asked.way), expected, "{method} {path}");
        }
        let key = |path: &str| Asked::of(&request("POST", path)).unwrap().key;
        assert_eq!(key("/sockjs/1/abc/xhr"), key("/sockjs/2/abc/xhr_send"), "whichever server it names");
        assert_ne!(key("/sockjs/1/abc/xhr"), key("/sockjs/1/ab%63/xhr"), "as it is written");
    }

    #[test]
    fn only_a_name_is_a_callback() {
        for (query, expected) in [
            ("c=_jp.abc-1", Some("_jp.abc-1")),
            ("t=1&callback=f", Some("f")),
            ("c=%5fjp", Some("_jp")),
            ("", None),
            ("c=", None),
            ("c=f()", None),
            ("c=f%0A", None),
            ("c=<script>", None),
        ] {
            let found = callback(&request("GET", &format!("/?{query}").replace('<', "%3C").replace('>', "%3E")));
            assert_eq!(found.as_deref(), expected, "{query}");
        }
        assert_eq!(callback(&request("GET", &format!("/?c={}", "x".repeat(LONGEST_CALLBACK + 1)))), None);
    }
}
