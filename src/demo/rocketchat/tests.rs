//! Contract conformance: the stand-in over real HTTP and sockets, by version.

use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::demo::client::{self, Reply};

const V6: Version = Version::new(6, 13, 0);
const V7: Version = Version::new(7, 10, 0);
const V80: Version = Version::new(8, 0, 0);
const V85: Version = Version::new(8, 5, 2);
const V88: Version = Version::new(8, 8, 0);
const V9: Version = Version::new(9, 0, 0);

async fn start(options: Options) -> Workspace {
    Workspace::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), options).unwrap()
}

/// The headers of the service account.
fn service() -> [(&'static str, String); 2] {
    let service = Service::default();
    [("x-user-id", service.id), ("x-auth-token", service.token)]
}

async fn call(ws: &Workspace, method: Method, path: &str, extra: &[(&str, &str)], body: Option<Value>) -> Reply {
    let auth = service();
    let mut headers: Vec<(&str, &str)> = auth.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
    headers.extend_from_slice(extra);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    client::send(ws.addr(), method, &format!("/api/v1/{path}"), &headers, body.into()).await.unwrap()
}

async fn get(ws: &Workspace, path: &str) -> Reply {
    call(ws, Method::GET, path, &[], None).await
}

async fn post(ws: &Workspace, path: &str, body: Value) -> Reply {
    call(ws, Method::POST, path, &[], Some(body)).await
}

fn newcomer() -> Value {
    json!({ "email": "ada@example.com", "name": "Ada", "username": "ada", "password": "secret word", "verified": true })
}

#[tokio::test]
async fn look_ups_take_exactly_one_parameter_and_know_their_version() {
    for (version, query, status, code) in [
        (V88, "username=ada", 200, Value::Null),
        (V88, "email=ADA@example.com", 200, Value::Null),
        (V88, "username=nobody", 400, Value::Null),
        (V88, "username=ada&email=ada@example.com", 400, json!("invalid-params")),
        (V88, "", 400, json!("invalid-params")),
        (V80, "email=ada@example.com", 400, json!("invalid-params")),
        (V6, "email=ada@example.com", 400, json!("invalid-params")),
        (V6, "username=ADA", 200, Value::Null),
    ] {
        let ws = start(Options::version(version)).await;
        ws.add_user(User::new("ada"));
        let reply = get(&ws, &format!("users.info?{query}")).await;
        assert_eq!((reply.status, &reply.json()["errorType"]), (status, &code), "{version} {query}");
        if query == "username=nobody" {
            assert_eq!(reply.json(), json!({ "success": false, "error": "User not found." }));
        }
    }
}

#[tokio::test]
async fn without_the_permission_emails_are_hidden_and_not_searched() {
    let service = Service::default().without("view-full-other-user-info");
    let ws = start(Options { service, ..Options::default() }).await;
    ws.add_user(User::new("ada"));
    let seen = get(&ws, "users.info?username=ada").await.json();
    assert!(seen["user"]["emails"].is_null() && seen["user"]["roles"].is_null() && seen["user"]["active"] == true);
    let by_email = get(&ws, "users.info?email=ada@example.com").await;
    assert_eq!((by_email.status, by_email.json()["error"].as_str()), (400, Some("User not found.")));
    assert_eq!(get(&ws, "users.list?email=ada@example.com").await.status, 403);
}

#[tokio::test]
async fn a_query_is_silently_ignored_from_7() {
    for (version, unsafe_query, total) in [(V6, false, 1), (V7, false, 3), (V7, true, 1), (V9, true, 3)] {
        let ws = start(Options { unsafe_query, ..Options::version(version) }).await;
        ws.add_user(User::new("ada"));
        let reply = get(&ws, "users.list?query=%7B%22username%22%3A%22ada%22%7D").await;
        assert_eq!(reply.json()["total"], total, "{version} {unsafe_query}");
    }
}

#[tokio::test]
async fn creating_users_fails_as_the_real_one_does() {
    let ws = start(Options { teams: vec!["pilots".into()], ..Options::default() }).await;
    ws.add_user(User::new("grace"));
    ws.set_setting("Accounts_BlockedDomainsList", "blocked.example");
    for (change, code, text) in [
        (json!({ "password": null }), json!("invalid-params"), "/password"),
        (json!({ "extra": 1 }), json!("invalid-params"), "additional properties"),
        (json!({ "name": "<b>" }), Value::Null, "Name contains invalid characters"),
        (json!({ "roles": ["nonsense"] }), json!("error-action-not-allowed"), "invalid role id"),
        (json!({ "roles": ["admin"] }), json!("error-action-not-allowed"), "Assigning admin"),
        (json!({ "name": " " }), json!("error-the-field-is-required"), "The field Name is required"),
        (json!({ "username": "a b" }), json!("error-input-is-not-a-valid-field"), "a b is not a valid username"),
        (json!({ "password": "" }), json!("error-the-field-is-required"), "The field Password is required"),
        (json!({ "username": "Admin" }), json!("error-blocked-username"), "is blocked and can't be used!"),
        (json!({ "username": "GRACE" }), json!("error-field-unavailable"), "GRACE is already in use :("),
        (json!({ "username": "Pilots" }), json!("error-field-unavailable"), "Pilots is already in use :("),
        (json!({ "email": "Grace@example.com" }), json!("error-field-unavailable"), "Grace@example.com is already in use :("),
        (json!({ "email": "nonsense" }), json!("error-invalid-email"), "Invalid email"),
        (json!({ "email": "a@blocked.example" }), json!("error-email-domain-blacklisted"), "blacklisted"),
    ] {
        let mut body = newcomer();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = post(&ws, "users.create", body).await;
        let answer = reply.json();
        assert_eq!((reply.status, &answer["errorType"]), (400, &code), "{change} {answer}");
        assert!(answer["error"].as_str().unwrap().contains(text), "{change} {answer}");
        if code == "error-field-unavailable" {
            assert!(text.starts_with(answer["details"]["field"].as_str().unwrap()));
        }
    }
    let created = post(&ws, "users.create", newcomer()).await;
    assert_eq!((created.status, &created.json()["user"]["username"]), (200, &json!("ada")));
    assert!(ws.user("ada").unwrap().two_factor, "a verified address switches e-mail 2FA on");
}

#[tokio::test]
async fn missing_required_fields_are_named() {
    let ws = start(Options::default()).await;
    for name in ["email", "name", "username", "password"] {
        let mut body = newcomer();
        body.as_object_mut().unwrap().remove(name);
        let answer = post(&ws, "users.create", body).await.json();
        assert!(answer["error"].as_str().unwrap().contains(&format!("'{name}'")), "{answer}");
    }
}

#[tokio::test]
async fn seats_guests_and_the_first_administrator() {
    let ws = start(Options { seats: Some(1), ..Options::default() }).await;
    assert_eq!(post(&ws, "users.create", newcomer()).await.json()["errorType"], "error-license-user-limit-reached");
    let ws = start(Options { guests: Some(0), ..Options::default() }).await;
    let mut guest = newcomer();
    guest["roles"] = json!(["guest"]);
    assert_eq!(post(&ws, "users.create", guest).await.json()["errorType"], "error-max-guests-number-reached");
    let ws = start(Options { seeded_admin: false, ..Options::default() }).await;
    post(&ws, "users.create", newcomer()).await;
    assert!(ws.user("ada").unwrap().roles.contains(&"admin".to_owned()));
}

#[tokio::test]
async fn a_create_can_fail_half_way() {
    let ws = start(Options::default()).await;
    ws.fail_next("users.create", Fault::AnswerAfter { status: 500, body: "{}".into() });
    assert_eq!(post(&ws, "users.create", newcomer()).await.status, 500);
    assert!(ws.user("ada").is_some());
}

#[tokio::test]
async fn tokens_are_minted_as_the_version_wants_it() {
    let secret = Options::default().create_tokens_secret.unwrap();
    let weak = || Service::default().without("user-generate-access-token");
    for (what, options, body, status, code) in [
        ("7 by id", Options::version(V7), json!({ "userId": "ADA" }), 200, Value::Null),
        ("7 by name", Options::version(V7), json!({ "username": "ada" }), 200, Value::Null),
        ("7 off", Options { version: V7, ..Options::default() }, json!({ "userId": "ADA" }), 400, json!("error-not-authorized")),
        (
            "7 no permission",
            Options { service: weak(), ..Options::version(V7) },
            json!({ "userId": "ADA" }),
            400,
            json!("error-not-authorized"),
        ),
        ("8 by id", Options::version(V88), json!({ "userId": "ADA", "secret": secret }), 200, Value::Null),
        ("8 by name", Options::version(V88), json!({ "username": "ada", "secret": secret }), 400, json!("error-invalid-params")),
        ("8 no secret", Options::version(V88), json!({ "userId": "ADA" }), 400, json!("error-invalid-params")),
        ("8 wrong", Options::version(V88), json!({ "userId": "ADA", "secret": "x" }), 400, json!("error-not-authorized")),
        (
            "8 unset",
            Options { create_tokens_secret: None, ..Options::default() },
            json!({ "userId": "ADA", "secret": secret }),
            400,
            json!("error-not-authorized"),
        ),
        (
            "8.0 no permission",
            Options { service: weak(), ..Options::version(V80) },
            json!({ "userId": "ADA", "secret": secret }),
            200,
            Value::Null,
        ),
        (
            "8.5.2 no permission",
            Options { service: weak(), ..Options::version(V85) },
            json!({ "userId": "ADA", "secret": secret }),
            400,
            json!("error-not-authorized"),
        ),
    ] {
        let ws = start(options).await;
        ws.add_user(User { id: "ADA".into(), ..User::new("ada") });
        let reply = post(&ws, "users.createToken", body).await;
        assert_eq!((reply.status, &reply.json()["errorType"]), (status, &code), "{what} {}", reply.text());
        if status == 200 {
            let token = reply.json()["data"]["authToken"].as_str().unwrap().to_owned();
            let me = call(&ws, Method::GET, "me", &[("x-user-id", "ADA"), ("x-auth-token", &token)], None).await;
            assert_eq!((me.status, &me.json()["username"]), (200, &json!("ada")), "{what}");
        }
    }
}

#[tokio::test]
async fn fifty_tokens_and_not_one_more() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    let first = ws.add_native_session(&id).unwrap();
    for _ in 0..50 {
        ws.add_native_session(&id).unwrap();
    }
    assert_eq!((ws.live_tokens(&id), ws.is_live(&first)), (50, false));
}

#[tokio::test]
async fn sessions_end_as_told() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    let [one, two, three] = [(); 3].map(|()| ws.add_native_session(&id).unwrap());
    let as_ada = |token: &str| [("x-user-id".to_owned(), id.clone()), ("x-auth-token".to_owned(), token.to_owned())];
    let auth = as_ada(&one);
    let auth: Vec<_> = auth.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let out = call(&ws, Method::POST, "logout", &auth, None).await;
    assert_eq!((out.status, out.json()["status"].as_str(), out.json().get("success")), (200, Some("success"), None));
    assert!(!ws.is_live(&one) && ws.is_live(&two) && ws.is_live(&three));
    assert_eq!(call(&ws, Method::GET, "me", &auth, None).await.status, 401);
    ws.deactivate("ada");
    assert_eq!(ws.live_tokens(&id), 0);
    let service = post(&ws, "users.logout", json!({})).await;
    assert_eq!(service.status, 200);
    assert_eq!(get(&ws, "me").await.status, 401, "users.logout takes the personal access tokens too");
}

#[tokio::test]
async fn logging_in_fails_by_version() {
    for (version, body, error, status_field) in [
        (V88, json!({ "user": "ada", "password": "wrong" }), json!("Unauthorized"), json!("error")),
        (V88, json!({ "user": "nobody", "password": "x" }), json!("Unauthorized"), json!("error")),
        (V88, json!({ "resume": "dead" }), json!(403), json!("error")),
        (V88, json!({ "user": "careful", "password": "word" }), json!("totp-required"), json!("error")),
        (V88, json!({ "user": "gone", "password": "word" }), json!("error-user-is-not-activated"), json!("error")),
        (V9, json!({ "user": "ada", "password": "wrong" }), json!("unauthorized"), Value::Null),
    ] {
        let ws = start(Options::version(version)).await;
        ws.add_user(User { password: "word".into(), ..User::new("ada") });
        ws.add_user(User { password: "word".into(), two_factor: true, ..User::new("careful") });
        ws.add_user(User { password: "word".into(), inactive: true, ..User::new("gone") });
        let reply = post(&ws, "login", body.clone()).await;
        assert_eq!((reply.status, &reply.json()["error"], &reply.json()["status"]), (401, &error, &status_field), "{version} {body}");
        for password in [json!("word"), json!({ "hashed": meteor::sha256_hex("word") })] {
            let good = post(&ws, "login", json!({ "user": "ada@example.com", "password": password })).await.json();
            assert_eq!(good["data"]["me"]["username"], "ada");
        }
    }
}

#[tokio::test]
async fn two_factor_is_asked_where_the_contract_says() {
    let service = Service { bypass_two_factor: false, ..Service::default() };
    let code = meteor::sha256_hex(&service.password);
    let ws = start(Options { service, ..Options::default() }).await;
    let id = ws.add_user(User::new("ada"));
    let body = json!({ "userId": id, "data": { "name": "Augusta" } });
    let asked = post(&ws, "users.update", body.clone()).await;
    assert_eq!(
        (asked.status, &asked.json()["errorType"], &asked.json()["details"]["method"]),
        (400, &json!("totp-required"), &json!("password"))
    );
    assert_eq!(post(&ws, "settings/Site_Name", json!({ "value": "x" })).await.json()["errorType"], "totp-required");
    assert_eq!(post(&ws, "users.create", newcomer_named("new")).await.status, 200);
    let with_code = [("x-2fa-method", "password"), ("x-2fa-code", code.as_str())];
    assert_eq!(call(&ws, Method::POST, "users.update", &with_code, Some(body)).await.status, 200);
    assert_eq!(ws.user("ada").unwrap().name, "Augusta");
}

#[tokio::test]
async fn a_second_factor_of_ones_own_takes_its_code() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User {
        password: "word".into(),
        two_factor: true,
        code: "123456".into(),
        roles: vec!["admin".into()],
        ..User::new("ada")
    });
    let login = |code: &str| json!({ "user": "ada", "password": "word", "code": code });
    assert_eq!(post(&ws, "login", login("1")).await.json()["error"], "totp-invalid");
    let token = post(&ws, "login", login("123456")).await.json()["data"]["authToken"].as_str().unwrap().to_owned();
    let mut socket = socket(&ws, "/websocket").await;
    let digest = json!({ "user": { "username": "ada" }, "password": { "digest": meteor::sha256_hex("word"), "algorithm": "sha-256" } });
    assert_eq!(ddp_login(&mut socket, digest.clone()).await["error"]["error"], "totp-required");
    let with = |code: &str| json!({ "totp": { "login": digest, "code": code } });
    assert_eq!(ddp_login(&mut socket, with("1")).await["error"]["error"], "totp-invalid");
    assert_eq!(ddp_login(&mut socket, with("123456")).await["result"]["id"], json!(id));
    for (method, code, status) in
        [("totp", "123456", 200), ("email", "123456", 200), ("password", "123456", 400), ("totp", "1", 400), ("", "", 400)]
    {
        let headers = [("x-user-id", id.as_str()), ("x-auth-token", token.as_str()), ("x-2fa-method", method), ("x-2fa-code", code)];
        let reply = call(&ws, Method::POST, "settings/Site_Name", &headers, Some(json!({ "value": "x" }))).await;
        assert_eq!(reply.status, status, "{method} {code}: {}", reply.text());
    }
}

#[tokio::test]
async fn settings_are_told_whole_in_part_and_as_they_change() {
    let ws = start(Options { fixed_settings: vec!["Site_Url".into()], ..Options::default() }).await;
    let mut socket = socket(&ws, "/websocket").await;
    let ask = |id: &str, params: Value| json!({ "msg": "method", "method": "public-settings/get", "params": params, "id": id });
    let over_rest = |params: Value| json!({ "message": ask("7", params).to_string() });
    let (first, last) = (json!([{ "$date": 0 }]), json!([{ "$date": 4_000_000_000_000_u64 }]));
    for (params, is_list, count) in [(json!([]), true, 18), (first, false, 18), (last, false, 0)] {
        say(&mut socket, &ask("1", params.clone())).await;
        let told = hear(&mut socket, |message| message["msg"] == "result").await["result"].clone();
        let all = if is_list { &told } else { &told["update"] };
        assert_eq!(all.as_array().unwrap().len(), count, "{params}");
        let reply = call(&ws, Method::POST, "method.callAnon/public-settings%3Aget", &[("x-user-id", "")], Some(over_rest(params))).await;
        let message: Value = serde_json::from_str(reply.json()["message"].as_str().unwrap()).unwrap();
        assert_eq!((&message["result"], &message["id"], reply.header("x-ratelimit-limit")), (&told, &json!("7"), ""));
    }
    let unknown = post(&ws, "method.call/nonsense", over_rest(json!([]))).await;
    assert_eq!(unknown.status, 404);

    say(&mut socket, &json!({ "msg": "sub", "id": "s", "name": "stream-notify-all", "params": ["public-settings-changed", false] })).await;
    hear(&mut socket, |message| message["msg"] == "ready").await;
    // Neither what is not public nor what is fixed.
    for (id, value) in [("Iframe_X_Frame_Options", "deny"), ("Site_Url", "http://elsewhere"), ("Site_Name", "Quay")] {
        assert_eq!(post(&ws, &format!("settings/{id}"), json!({ "value": value })).await.status, 200);
    }
    let told = hear(&mut socket, |message| message["msg"] == "changed").await;
    assert_eq!(
        told["fields"],
        json!({ "eventName": "public-settings-changed", "args": ["updated", { "_id": "Site_Name", "value": "Quay" }] })
    );
    assert_eq!(ws.read(|state| state.settings["Site_Url"].clone()), json!("http://localhost:3000"));
}

fn newcomer_named(name: &str) -> Value {
    json!({ "email": format!("{name}@example.org"), "name": name, "username": name, "password": "secret word" })
}

#[tokio::test]
async fn the_eleventh_call_in_a_minute_is_429() {
    let ws = start(Options { service: Service::default().without("api-bypass-rate-limit"), ..Options::default() }).await;
    for left in (0..10).rev() {
        let reply = get(&ws, "me").await;
        assert_eq!((reply.status, reply.header("x-ratelimit-remaining")), (200, left.to_string().as_str()));
    }
    let reply = get(&ws, "me").await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, ""));
    assert_eq!(reply.json()["errorType"], Value::Null);
    assert!(reply.json()["error"].as_str().unwrap().contains("You must wait "));
    assert!(reply.header("x-ratelimit-reset").parse::<u64>().unwrap() > 1_600_000_000_000);
    let other = call(&ws, Method::GET, "me", &[("x-real-ip", "10.0.0.9")], None).await;
    assert_eq!(other.status, 200, "X-Real-IP is believed");
    assert_eq!(get(&ws, "users.info?username=gantry").await.status, 200, "the limit is per route");
    let ws = start(Options::default()).await;
    assert_eq!(get(&ws, "me").await.header("x-ratelimit-limit"), "", "the permission bypasses it");
}

#[tokio::test]
async fn doors_are_closed_by_version() {
    for (version, status, error) in [(V6, 401, "unauthorized"), (V88, 403, "unauthorized"), (V9, 403, "forbidden")] {
        let service = Service::default().without("view-privileged-setting");
        let ws = start(Options { service, ..Options::version(version) }).await;
        let reply = get(&ws, "settings/Site_Url").await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (status, Some(error)), "{version}");
        let nobody = call(&ws, Method::GET, "me", &[("x-auth-token", "wrong")], None).await;
        assert_eq!((nobody.status, nobody.json().get("status").is_some()), (401, version < V9), "{version}");
    }
}

#[tokio::test]
async fn settings_info_health_and_preflights() {
    let ws = start(Options::default()).await;
    let public = get(&ws, "settings.public?_id=UTF8_User_Names_Validation,Iframe_X_Frame_Options").await.json();
    assert_eq!(public["settings"], json!([{ "_id": "UTF8_User_Names_Validation", "value": "[0-9a-zA-Z-_.]+", "enterprise": false }]));
    assert_eq!(get(&ws, "settings/Iframe_X_Frame_Options").await.json()["value"], "sameorigin");
    assert_eq!(get(&ws, "settings/Accounts_SystemBlockedUsernameList").await.json(), json!({ "success": false }));
    let info = client::get(ws.addr(), "/api/info", &[]).await.unwrap();
    assert_eq!((info.json()["version"].as_str(), info.header("access-control-allow-origin")), (Some("8.8"), "*"));
    let preflight = client::send(ws.addr(), Method::OPTIONS, "/api/v1/me", &[("origin", "https://a.example")], Bytes::new()).await.unwrap();
    assert_eq!(preflight.status, 405);
    ws.configure(|options| options.cors = RestCors::List(vec!["https://a.example".into()]));
    let preflight = client::send(ws.addr(), Method::OPTIONS, "/api/v1/me", &[("origin", "https://a.example")], Bytes::new()).await.unwrap();
    assert_eq!((preflight.header("access-control-allow-origin"), preflight.header("vary")), ("https://a.example", "Origin"));
    assert_eq!(client::get(ws.addr(), "/livez", &[]).await.unwrap().header("content-type"), "application/json");
    ws.set_version(V7);
    assert_eq!(client::get(ws.addr(), "/health", &[]).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn pages_carry_the_headers_of_the_real_one() {
    let ws = start(Options::default()).await;
    let page = client::get(ws.addr(), "/channel/general", &[]).await.unwrap();
    assert_eq!(
        (page.header("x-frame-options"), page.header("x-content-type-options"), page.header("x-xss-protection")),
        ("sameorigin", "nosniff", "1")
    );
    let policy = page.header("content-security-policy");
    assert!(policy.contains("frame-src *") && policy.contains("connect-src *") && !policy.contains("frame-ancestors"));
    let html = page.text();
    let src = html.split('"').find(|part| part.starts_with("/meteor_runtime_config.js")).unwrap();
    assert_eq!(client::get(ws.addr(), src, &[]).await.unwrap().status, 200);
    assert_eq!(client::get(ws.addr(), "/meteor_runtime_config.js?hash=other", &[]).await.unwrap().status, 404);
    assert_eq!(client::get(ws.addr(), "/client.js", &[]).await.unwrap().header("access-control-allow-origin"), "*");
    ws.set_setting("Iframe_Restrict_Access", false);
    ws.set_setting("Enable_CSP", false);
    let page = client::get(ws.addr(), "/", &[]).await.unwrap();
    assert_eq!((page.header("x-frame-options"), page.header("content-security-policy")), ("", ""));
}

#[tokio::test]
async fn livechat_frames_by_referer() {
    let ws = start(Options::default()).await;
    for (list, referer, policy) in [
        ("", "https://shop.example/x", ""),
        ("shop.example", "", ""),
        ("shop.example,other.example:8443", "https://other.example:8443/x", "frame-ancestors https://other.example:8443"),
        ("shop.example", "https://evil.example/", "frame-ancestors 'none'"),
    ] {
        ws.set_setting("Livechat_AllowedDomainsList", list);
        let headers: &[(&str, &str)] = if referer.is_empty() { &[] } else { &[("referer", referer)] };
        let page = client::get(ws.addr(), "/livechat", headers).await.unwrap();
        assert_eq!((page.header("content-security-policy"), page.header("x-frame-options")), (policy, "sameorigin"), "{list} {referer}");
    }
}

#[tokio::test]
async fn files_are_protected_and_come_in_ranges() {
    let ws = start(Options::default()).await;
    ws.add_file("f/x.txt", "text/plain", "0123456789");
    let id = ws.add_user(User::new("ada"));
    let token = ws.add_native_session(&id).unwrap();
    let cookie = format!("other=1; rc_uid={id}; rc_token={token}");
    assert_eq!(client::get(ws.addr(), "/file-upload/f/x.txt", &[]).await.unwrap().status, 403);
    for (range, status, body) in
        [("", 200, "0123456789"), ("bytes=2-4", 206, "234"), ("bytes=-3", 206, "789"), ("bytes=8-", 206, "89"), ("bytes=10-", 416, "")]
    {
        let mut headers = vec![("cookie", cookie.as_str())];
        if !range.is_empty() {
            headers.push(("range", range));
        }
        let reply = client::get(ws.addr(), "/file-upload/f/x.txt", &headers).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{range}");
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn socket(ws: &Workspace, path: &str) -> Socket {
    let stream = TcpStream::connect(ws.addr()).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(format!("ws://{}{path}", ws.addr()), stream).await.unwrap();
    socket
}

async fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next message that `wanted` picks; the socket's end is a failure.
async fn hear(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let text = socket.next().await.expect("the socket is open").unwrap();
        let message: Value = serde_json::from_str(text.to_text().unwrap()).unwrap_or_default();
        if wanted(&message) {
            return message;
        }
    }
}

async fn ddp_login(socket: &mut Socket, params: Value) -> Value {
    say(socket, &json!({ "msg": "method", "method": "login", "params": [params], "id": "1" })).await;
    hear(socket, |message| message["msg"] == "result" && message["id"] == "1").await
}

#[tokio::test]
async fn ddp_signs_in_with_a_resume_token_and_ends_with_it() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    let token = ws.add_native_session(&id).unwrap();
    let mut socket = socket(&ws, "/websocket").await;
    say(&mut socket, &json!({ "msg": "connect", "version": "1", "support": ["1"] })).await;
    assert!(hear(&mut socket, |message| message["msg"] == "connected").await["session"].is_string());
    say(&mut socket, &json!({ "msg": "ping", "id": "p" })).await;
    assert_eq!(hear(&mut socket, |message| message["msg"] == "pong").await["id"], "p");
    let bad = ddp_login(&mut socket, json!({ "resume": "dead" })).await;
    assert_eq!(
        (&bad["error"]["error"], bad["error"]["reason"].as_str()),
        (&json!(403), Some("You've been logged out by the server. Please log in again."))
    );
    let good = ddp_login(&mut socket, json!({ "resume": token })).await;
    assert_eq!((&good["result"]["id"], &good["result"]["token"]), (&json!(id), &json!(token)));
    assert!(good["result"]["tokenExpires"]["$date"].is_u64() && ws.read(|state| state.signed_in("ada")));
    say(&mut socket, &json!({ "msg": "method", "method": "nonsense", "params": [], "id": "2" })).await;
    assert_eq!(hear(&mut socket, |message| message["id"] == "2").await["error"]["error"], 404);
    ws.revoke_sessions("ada");
    while let Some(Ok(message)) = socket.next().await {
        assert!(!message.is_binary());
    }
    ws.wait_for("the socket to be gone", |state| !state.signed_in("ada")).await;
    assert_eq!(ws.calls("ddp:login"), 2);
}

#[tokio::test]
async fn ddp_refuses_inactive_users_and_the_iframe_form_asks_for_a_second_factor() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User { inactive: true, ..User::new("gone") });
    let token = ws.add_native_session(&id).unwrap();
    let mut socket = socket(&ws, "/websocket").await;
    assert_eq!(ddp_login(&mut socket, json!({ "resume": token })).await["error"]["error"], "error-user-is-not-activated");
    ws.add_user(User { iframe_token: Some("frame".into()), two_factor: true, ..User::new("ada") });
    assert_eq!(ddp_login(&mut socket, json!({ "iframe": true, "token": "frame" })).await["error"]["error"], "totp-required");
    assert_eq!(ddp_login(&mut socket, json!({ "iframe": true })).await["error"]["message"], "Unrecognized options for login request [400]");
    ws.change_user("ada", |user| user.two_factor = false);
    assert!(ddp_login(&mut socket, json!({ "iframe": true, "token": "frame" })).await["result"]["token"].is_string());
}

#[tokio::test]
async fn ddp_logout_removes_only_its_token() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    let (one, other) = (ws.add_native_session(&id).unwrap(), ws.add_native_session(&id).unwrap());
    let mut socket = socket(&ws, "/websocket").await;
    ddp_login(&mut socket, json!({ "resume": one })).await;
    say(&mut socket, &json!({ "msg": "method", "method": "logout", "params": [], "id": "2" })).await;
    hear(&mut socket, |message| message["id"] == "2").await;
    assert!(!ws.is_live(&one) && ws.is_live(&other));
}

#[tokio::test]
async fn sockjs_frames_over_a_socket_and_over_polling() {
    let ws = start(Options::default()).await;
    assert_eq!(client::get(ws.addr(), "/sockjs/info", &[]).await.unwrap().json()["websocket"], true);
    let mut socket = socket(&ws, "/sockjs/123/abcdefgh/websocket").await;
    assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "o");
    say(&mut socket, &json!([r#"{"msg":"ping","id":"1"}"#])).await;
    hear_frame(&mut socket, r#"{"msg":"pong","id":"1"}"#).await;

    let poll = |verb: &'static str, body: &'static str| {
        let addr = ws.addr();
        async move { client::send(addr, Method::POST, &format!("/sockjs/1/poll/{verb}"), &[], body.into()).await.unwrap() }
    };
    assert_eq!(poll("xhr_send", "[]").await.status, 404);
    assert_eq!(poll("xhr", "").await.text(), "o\n");
    assert_eq!(poll("xhr_send", r#"["{\"msg\":\"ping\",\"id\":\"1\"}"]"#).await.status, 204);
    let mut heard = String::new();
    while !heard.contains("pong") {
        heard += &poll("xhr", "").await.text();
    }
    assert!(heard.starts_with("a["), "{heard}");
}

async fn hear_frame(socket: &mut Socket, wanted: &str) {
    let wanted: Value = serde_json::from_str(wanted).unwrap();
    loop {
        let text = socket.next().await.expect("the socket is open").unwrap();
        let list: Vec<String> = serde_json::from_str(text.to_text().unwrap().strip_prefix('a').unwrap()).unwrap();
        if list.iter().any(|message| serde_json::from_str::<Value>(message).unwrap() == wanted) {
            return;
        }
    }
}

#[tokio::test]
async fn gates_hold_and_faults_cut() {
    let ws = start(Options::default()).await;
    let gate = ws.hold("me");
    let held = tokio::spawn({
        let ws = ws.clone();
        async move { get(&ws, "me").await.status }
    });
    gate.arrived(1).await;
    assert!(!held.is_finished());
    gate.open();
    assert_eq!(held.await.unwrap(), 200);
    ws.fail_next("users.create", Fault::CloseAfter);
    let auth = service();
    let headers: Vec<_> = auth.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert!(client::post(ws.addr(), "/api/v1/users.create", &headers, &newcomer()).await.is_err());
    assert!(ws.user("ada").is_some());
    ws.fail_always("*", Fault::Answer { status: 503, body: "down".into() });
    assert_eq!((get(&ws, "me").await.status, get(&ws, "users.info?username=ada").await.status), (503, 503));
    ws.clear_faults();
    ws.down().await;
    assert!(client::get(ws.addr(), "/", &[]).await.is_err());
    ws.up().await;
    assert_eq!(get(&ws, "me").await.status, 200);
}

#[tokio::test]
async fn deactivating_over_rest_wipes_tokens_and_spares_the_last_administrator() {
    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    ws.add_native_session(&id).unwrap();
    let reply = post(&ws, "users.setActiveStatus", json!({ "userId": id, "activeStatus": false })).await;
    assert_eq!((reply.json()["user"].clone(), ws.live_tokens(&id)), (json!({ "_id": id, "active": false }), 0));
    let admin = ws.user("harbour.master").unwrap().id;
    assert_eq!(post(&ws, "users.setActiveStatus", json!({ "userId": admin, "activeStatus": false })).await.status, 400);
}

#[tokio::test]
async fn roles_and_permissions_are_an_administrators_to_give_and_tokens_ones_own() {
    let mut options = Options { rate_limit: None, ..Options::default() };
    options.service.permissions.retain(|permission| permission != "create-personal-access-tokens");
    let ws = start(options).await;
    let grant = |id: &str, role: &str| json!({ "permissions": [{ "_id": id, "roles": ["admin", role] }] });
    for (path, body, status, code) in [
        ("roles.create", json!({ "name": "door" }), 400, "error-action-not-allowed"),
        ("permissions.update", grant("create-user", "bot"), 403, ""),
        ("roles.addUserToRole", json!({ "username": "gantry", "roleId": "bot" }), 403, ""),
        ("users.generatePersonalAccessToken", json!({ "tokenName": "x" }), 400, "not-authorized"),
    ] {
        let reply = post(&ws, path, body).await;
        assert_eq!((reply.status, reply.json()["errorType"].as_str().unwrap_or_default()), (status, code), "{path}: {}", reply.text());
    }

    ws.add_user(User { roles: vec!["admin".into()], password: "the admin's".into(), ..User::new("root.user") });
    let login = post(&ws, "login", json!({ "user": "root.user", "password": "the admin's" })).await.json();
    let (id, token) = (login["data"]["userId"].as_str().unwrap(), login["data"]["authToken"].as_str().unwrap());
    let admin = [("x-user-id", id), ("x-auth-token", token)];
    let code = meteor::sha256_hex("the admin's");
    let with_code = [admin[0], admin[1], ("x-2fa-method", "password"), ("x-2fa-code", code.as_str())];
    let ask = async |path: &str, headers: &[(&str, &str)], body: Value| call(&ws, Method::POST, path, headers, Some(body)).await;

    let role = ask("roles.create", &admin, json!({ "name": "door" })).await.json()["role"]["_id"].as_str().unwrap().to_owned();
    assert_ne!(role, "door", "custom roles have random ids");
    for (path, body, error) in [
        ("roles.create", json!({ "name": "door" }), "error-duplicate-role-names-not-allowed"),
        ("roles.create", json!({ "name": "x", "colour": "red" }), "additional properties"),
        ("permissions.update", grant("no-such", "bot"), "Invalid permission"),
        ("permissions.update", grant("create-user", "door"), "Invalid role"),
        ("roles.addUserToRole", json!({ "username": "gantry", "roleId": "door" }), "error-role-not-found"),
        ("users.generatePersonalAccessToken", json!({ "tokenName": "x" }), "totp-required"),
    ] {
        let reply = ask(path, &admin, body).await;
        assert!(reply.status == 400 && reply.text().contains(error), "{path}: {}", reply.text());
    }

    ws.add_user(User { roles: vec![role.clone()], ..User::new("door.keeper") });
    let may = || ws.read(|state| state.may(state.user("door.keeper").unwrap(), "create-user"));
    assert!(!may());
    assert_eq!(ask("permissions.update", &admin, grant("create-user", &role)).await.status, 200);
    assert!(may());

    let named = json!({ "tokenName": "x", "bypassTwoFactor": true });
    let made = ask("users.generatePersonalAccessToken", &with_code, named.clone()).await.json()["token"].as_str().unwrap().to_owned();
    assert!(ws.is_live(&made));
    assert!(ask("users.generatePersonalAccessToken", &with_code, named).await.text().contains("error-token-already-exists"));
    assert_eq!(ask("users.removePersonalAccessToken", &with_code, json!({ "tokenName": "x" })).await.status, 200);
    assert!(!ws.is_live(&made));

    ws.configure(|options| options.custom_roles = false);
    let refused = ask("roles.create", &admin, json!({ "name": "other" })).await;
    assert!(refused.status == 400 && refused.text().contains("enterprise"), "{}", refused.text());
}

#[tokio::test]
async fn roles_go_by_id_and_before_8_by_name_too() {
    for (version, by_name) in [(V6, 200), (V7, 200), (V80, 400), (V88, 400), (V9, 400)] {
        let ws = start(Options { service: Service::default().syncing(), ..Options::version(version) }).await;
        ws.add_user(User::new("ada"));
        let by_id = json!({ "username": "ada", "roleId": "leader" });
        assert_eq!(post(&ws, "roles.addUserToRole", by_id.clone()).await.status, 200, "{version}");
        let again = post(&ws, "roles.addUserToRole", by_id.clone()).await.json();
        assert!(again["error"].as_str().unwrap().contains("error-user-already-in-role"), "{version}: {again}");
        assert_eq!(post(&ws, "roles.removeUserFromRole", by_id.clone()).await.status, 200, "{version}");
        let again = post(&ws, "roles.removeUserFromRole", by_id).await.json();
        assert!(again["error"].as_str().unwrap().contains("error-user-not-in-role"), "{version}: {again}");
        let named = json!({ "username": "ada", "roleName": "owner" });
        assert_eq!(post(&ws, "roles.addUserToRole", named.clone()).await.status, by_name, "{version}");
        assert_eq!(post(&ws, "roles.removeUserFromRole", named).await.status, by_name, "{version}");
        assert_eq!(ws.user("ada").unwrap().roles, ["user"], "{version}");
    }
    let ws = start(Options::default()).await;
    ws.add_user(User::new("ada"));
    assert_eq!(post(&ws, "roles.removeUserFromRole", json!({ "username": "ada", "roleId": "user" })).await.status, 403);
}

#[tokio::test]
async fn channels_and_teams_are_joined_and_left_by_permission() {
    let ws = start(Options { service: Service::default().syncing(), ..Options::default() }).await;
    let id = ws.add_user(User::new("ada"));
    let public = ws.add_room(Room::new("general"));
    let hidden = ws.add_room(Room { private: true, ..Room::new("office") });
    ws.add_room(Room { archived: true, ..Room::new("closed") });
    ws.add_room(Room::team("crew"));
    assert_eq!(get(&ws, "channels.info?roomName=general").await.json()["channel"]["_id"], json!(public));
    // Who is not in a private one is told that there is none.
    for query in ["groups.info?roomName=office", "channels.info?roomName=office", "channels.info?roomName=nowhere"] {
        assert_eq!(get(&ws, query).await.json()["errorType"], "error-room-not-found", "{query}");
    }
    let service = ws.user("gantry").unwrap().id;
    ws.change_room("office", |room| assert!(room.members.insert(service)));
    assert_eq!(get(&ws, "groups.info?roomName=office").await.json()["group"]["_id"], json!(hidden));
    for (endpoint, room) in [("channels.invite", "general"), ("groups.invite", "office")] {
        for _ in 0..2 {
            assert_eq!(post(&ws, endpoint, json!({ "roomName": room, "userId": id })).await.status, 200, "{room}");
        }
        assert!(ws.is_in("ada", room));
    }
    let closed = post(&ws, "channels.invite", json!({ "roomName": "closed", "userId": id })).await;
    assert_eq!(closed.json()["errorType"], "error-room-archived");
    let team = get(&ws, "teams.info?teamName=crew").await.json()["teamInfo"]["_id"].clone();
    assert_eq!(post(&ws, "teams.addMembers", json!({ "teamId": team, "members": [{ "userId": id }] })).await.status, 200);
    let rooms = get(&ws, &format!("users.info?userId={id}&includeUserRooms=true")).await.json()["user"]["rooms"].clone();
    assert_eq!(rooms.as_array().unwrap().len(), 3);
    assert_eq!(post(&ws, "teams.removeMember", json!({ "teamId": team, "userId": id })).await.status, 200);
    assert_eq!(post(&ws, "channels.kick", json!({ "roomId": public, "userId": id })).await.status, 200);
    let again = post(&ws, "channels.kick", json!({ "roomId": public, "userId": id })).await;
    assert_eq!(again.json()["errorType"], "error-user-not-in-room");
    assert!(!ws.is_in("ada", "general") && !ws.is_in("ada", "crew") && ws.is_in("ada", "office"));
    assert_eq!(
        post(&ws, "channels.invite", json!({ "roomId": public, "roomName": "general", "userId": id })).await.status,
        400,
        "one of two"
    );

    let ws = start(Options::default()).await;
    let id = ws.add_user(User::new("ada"));
    ws.add_room(Room::new("general"));
    ws.add_room(Room { private: true, ..Room::team("crew") });
    let no = post(&ws, "channels.invite", json!({ "roomName": "general", "userId": id })).await;
    assert_eq!(no.json()["errorType"], "error-not-allowed");
    assert_eq!(get(&ws, "teams.info?teamName=crew").await.status, 403);
    let user = get(&ws, &format!("users.info?userId={id}&includeUserRooms=true")).await.json()["user"].clone();
    assert_eq!(user.get("rooms"), None, "not without the permission");
}

#[tokio::test]
async fn a_name_changes_once_a_minute_and_a_picture_by_permission() {
    let ws = start(Options { service: Service::default().syncing(), ..Options::default() }).await;
    let id = ws.add_user(User::new("ada"));
    let name = |name: &str| json!({ "userId": id, "data": { "name": name } });
    assert_eq!(post(&ws, "users.update", name("First")).await.status, 200);
    assert_eq!(post(&ws, "users.update", name("First")).await.status, 200, "it is called so already");
    let no = post(&ws, "users.update", name("Second")).await.json();
    assert!(no["errorType"] == "too-many-requests" && no["error"].as_str().unwrap().contains("You must wait 60 seconds"), "{no}");
    assert_eq!(post(&ws, "users.update", json!({ "userId": id, "data": { "email": "new@example.com" } })).await.status, 200);
    let picture = json!({ "userId": id, "avatarUrl": "https://app.test/a.png" });
    assert_eq!(post(&ws, "users.setAvatar", picture.clone()).await.status, 200);
    assert_eq!(ws.user("ada").unwrap().avatar.as_deref(), Some("https://app.test/a.png"));
    let bad = post(&ws, "users.setAvatar", json!({ "userId": id, "avatarUrl": "ftp://x" })).await.json();
    assert_eq!(bad["errorType"], "error-avatar-invalid-url");
    let poor = start(Options::default()).await;
    let id = poor.add_user(User::new("ada"));
    assert_eq!(post(&poor, "users.setAvatar", json!({ "userId": id, "avatarUrl": "https://x/a" })).await.status, 403);
}
