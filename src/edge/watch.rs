//! What goes on in a WebSocket as far as chat sessions go: which one its client signed in with, that the person logs
//! out in it, and when it has to close because the chat session is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_util::sync::WaitForCancellationFutureOwned;

use super::ddp::{self, Call, Resume};
use super::messages::{Message, Messages};
use crate::login::Login;
use crate::metrics::{Shard, SocketEnd, Unread};
use crate::tokens::{Found, Socket};

/// Watches one WebSocket.
#[derive(Debug)]
pub struct Watch {
    messages: Messages,
    session: Session,
}

/// The chat session of a WebSocket.
#[derive(Debug)]
struct Session {
    login: Login,
    shard: Arc<Shard>,
    held: Option<Held>,
    /// Nobody waits yet for the end of what is held.
    unwatched: bool,
    refused: Option<Resume>,
}

/// The chat session that the client signed in with.
#[derive(Debug)]
struct Held {
    socket: Socket,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Why a WebSocket has to close.
#[derive(Debug)]
pub(super) enum End {
    /// Its chat session is over.
    Over,
    /// Its client wants to sign in with a chat session that is over. It is told so with these text messages.
    Refused(Vec<String>),
}

impl Watch {
    /// Looks into messages of up to `limit` bytes. `deflate` says that the client may compress them.
    pub(super) fn new(login: Login, shard: Arc<Shard>, deflate: bool, limit: usize) -> Self {
        Self { messages: Messages::new(deflate, limit), session: Session { login, shard, held: None, unwatched: false, refused: None } }
    }

    /// Takes note of bytes of the client's, before they go on. False when they must not.
    pub(super) fn client_said(&mut self, bytes: &[u8]) -> bool {
        let Self { messages, session } = self;
        messages.feed(bytes, |message| match message {
            Message::Whole(text) => ddp::calls(text, |call| session.called(call)),
            Message::TooLong => session.shard.unread(Unread::TooLong),
            Message::Packed => session.shard.unread(Unread::Packed),
        });
        session.refused.is_none()
    }

    /// Takes note of bytes of the client's that go nowhere.
    pub(super) fn client_said_late(&mut self, bytes: &[u8]) {
        self.messages.feed(bytes, |_| {});
    }

    /// Whether [`Self::poll_end`] has to be asked again after what the client has said: it must not go on, or there is a
    /// chat session now whose end nobody waits for.
    pub(super) fn wants_poll(&self) -> bool {
        self.session.refused.is_some() || self.session.unwatched
    }

    /// The same for a whole message that was read elsewhere.
    pub(super) fn client_said_message(&mut self, text: &str) -> bool {
        ddp::calls(text.as_bytes(), |call| self.session.called(call));
        self.session.refused.is_none()
    }

    /// Whether the client has said its close frame.
    pub(super) fn client_has_closed(&self) -> bool {
        self.messages.is_closed()
    }

    /// Resolves when the WebSocket has to close.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let session = &mut self.session;
        if let Some(refused) = session.refused.take() {
            session.shard.socket_ended(SocketEnd::Refused);
            return Poll::Ready(End::Refused(refused.refused()));
        }
        session.unwatched = false;
        let Some(held) = &mut session.held else { return Poll::Pending };
        ready!(held.over.as_mut().poll(cx));
        session.held = None;
        session.shard.socket_ended(SocketEnd::Over);
        Poll::Ready(End::Over)
    }
}

impl Session {
    fn called(&mut self, call: Call) {
        match call {
            Call::Login(resume) => match self.login.find(&resume.token) {
                Found::Living(chat) => {
                    if self.held.as_ref().is_none_or(|held| *held.socket.chat() != chat) {
                        self.held = Some(Held { over: Box::pin(chat.over()), socket: chat.socket() });
                        self.unwatched = true;
                    }
                }
                Found::Over => self.refused = Some(resume),
                // Somebody's own. Whether the workspace takes it is not known: what was signed in before may still be,
                // so that its end closes this WebSocket as well. Its client comes back by itself then.
                Found::Unknown => {}
            },
            // At once, and not with the workspace's answer: right behind that the client asks to be let in again. From
            // here on the workspace is to end what it was told to end, and to answer.
            Call::Logout => {
                if let Some(held) = self.held.take() {
                    self.login.person_logged_out(held.socket.chat().token().expose());
                }
            }
        }
    }
}
