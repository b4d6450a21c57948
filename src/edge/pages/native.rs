//! The pages of the native login: the way in, the way out, and the one that is shown when it is over.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::template::{Piece, Slot, Template, html, json};
use super::{Pages, STYLE_FIELD, TOWER, element, page};
use crate::config::Config;
use crate::peer::RequestId;

const ENTER: &str = include_str!("../assets/native-enter.html");
const LEAVE: &str = include_str!("../assets/native-leave.html");
const OVER: &str = include_str!("../assets/native-over.html");
const SCRIPT: &str = include_str!("../assets/native.js");

/// The field for the secret, where one is asked for.
const FIELD: &str = "<label class=\"field\">Secret <input type=\"password\" name=\"secret\" autocomplete=\"off\" spellcheck=\"false\" required autofocus></label>";

/// The three pages, prepared.
#[derive(Clone, Debug)]
pub(super) struct NativePages {
    enter: Template,
    leave: Template,
    over: Template,
}

impl NativePages {
    /// In the common style, without an operator's logo: whoever comes here has come to the machine room.
    pub(super) fn new(config: &Config, style: &str) -> Self {
        let login = &config.login;
        let base = config.rocketchat.url.path().trim_end_matches('/');
        let lasts = humantime::format_duration(login.native.lasts).to_string();
        let cut = |source: &str, todo: &str| {
            Template::cut(source, |name| {
                Some(match name {
                    "nonce" => vec![Piece::Slot(Slot::Nonce)],
                    "style" => element("<style", &format!("{style}{STYLE_FIELD}"), "</style>"),
                    "logo" => vec![Piece::text(TOWER.trim_end())],
                    "app_name" => vec![Piece::text(html(&login.app_name))],
                    "lasts" => vec![Piece::text(html(&lasts))],
                    "field" => vec![Piece::text(if login.native.secret.is_some() { FIELD } else { "" })],
                    "home" => vec![Piece::text(html(&format!("{base}/home")))],
                    "request_id" => vec![Piece::Slot(Slot::RequestId)],
                    "script" => {
                        let known = format!(
                            "const known = {{ todo: {}, path: {}, base: {} }};\n{SCRIPT}",
                            json(todo),
                            json(&format!("{}native", login.prefix)),
                            json(base)
                        );
                        element("<script", &known, "</script>")
                    }
                    _ => return None,
                })
            })
        };
        Self { enter: cut(ENTER, "enter"), leave: cut(LEAVE, "leave"), over: cut(OVER, "over") }
    }
}

impl Pages {
    /// The page of the native login, for a browser that is in it or not.
    pub(in crate::edge) fn native(&self, id: &RequestId, is_in: bool) -> Response<Bytes> {
        render(if is_in { &self.native.leave } else { &self.native.enter }, id)
    }

    /// What a browser shows for a moment whose native login is over.
    pub(in crate::edge) fn native_over(&self, id: &RequestId) -> Response<Bytes> {
        render(&self.native.over, id)
    }
}

fn render(template: &Template, id: &RequestId) -> Response<Bytes> {
    page(StatusCode::OK, template, |slot, out| {
        if slot == Slot::RequestId {
            out.push_str(id.as_str());
        }
    })
}
