//! The sockets that are listened on: bound here, or handed over by the service manager.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::StartError;
use crate::config::Server;
use crate::listen::{self, Listener};

/// Sockets that a service manager has bound and listens on already (`sd_listen_fds(3)`), with their names.
#[derive(Debug, Default)]
pub struct Activated(Vec<(String, TcpListener)>);

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Plain,
    Tls,
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Admin];

    fn named(name: &str) -> Option<Self> {
        match name {
            "http" | "plain" => Some(Self::Plain),
            "https" | "tls" => Some(Self::Tls),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Plain => "server.listen",
            Self::Tls => "server.tls.listen",
            Self::Admin => "server.admin_listen",
        }
    }

    fn configured(self, server: &Server) -> Option<SocketAddr> {
        match self {
            Self::Plain => server.listen,
            Self::Tls => server.tls.as_ref().map(|tls| tls.listen),
            Self::Admin => server.admin_listen,
        }
    }
}

impl Activated {
    /// The sockets handed to this process, `names` being `LISTEN_FDNAMES`. Has to be called before there are
    /// threads, since the variables are taken out of the environment.
    ///
    /// # Errors
    /// One of them is not a TCP socket.
    pub fn of_process(names: &str) -> Result<Self, StartError> {
        let mut handed = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = handed.take_tcp_listener(index).map_err(|error| {
                StartError::new("server.listen", format!("the service manager hands over \"{name}\", which is no TCP socket: {error}"))
            })?;
            sockets.extend(socket.map(|socket| (name, socket)));
        }
        Ok(Self(sockets))
    }

    /// The sockets by what they are for: by their names, and those without one in the order plain, TLS, admin.
    fn assign(self, server: &Server) -> Result<[Option<TcpListener>; 3], StartError> {
        let mut roles = [None, None, None];
        let mut unnamed = Vec::new();
        for (name, socket) in self.0 {
            let Some(role) = Role::named(&name) else {
                unnamed.push(socket);
                continue;
            };
            if role.configured(server).is_none() {
                let why = format!(
                    "is not set, but the service manager hands over a socket named \"{name}\" for it; set it, or take the socket away"
                );
                return Err(StartError::new(role.key(), why));
            }
            if roles[role as usize].replace(socket).is_some() {
                return Err(StartError::new(role.key(), "has more than one socket from the service manager; one is shared by all workers"));
            }
        }
        for socket in unnamed {
            let free = Role::ALL.into_iter().find(|role| roles[*role as usize].is_none() && role.configured(server).is_some());
            let Some(role) = free else {
                let addr = socket.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
                let why =
                    format!("the service manager hands over {addr} too, which is for no listener; name its socket http, https or admin");
                return Err(StartError::new("server.listen", why));
            };
            roles[role as usize] = Some(socket);
        }
        Ok(roles)
    }
}

/// What is listened on, in as many handles as there are threads.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) plain: Vec<Listener>,
    pub(super) tls: Vec<Listener>,
    pub(super) admin: Option<Listener>,
}

impl Sockets {
    /// Takes what was handed over, and binds what was not.
    pub(super) fn new(server: &Server, activated: Activated) -> Result<Self, StartError> {
        let [plain, tls, admin] = activated.assign(server)?;
        let get = |role: Role, handed: Option<TcpListener>, count| match handed {
            Some(socket) => Listener::handed_over(&socket, count).map_err(|error| {
                StartError::new(role.key(), format!("the socket that the service manager hands over cannot be used: {error}"))
            }),
            None => bind(role.key(), role.configured(server), count),
        };
        Ok(Self {
            plain: get(Role::Plain, plain, server.workers)?,
            tls: get(Role::Tls, tls, server.workers)?,
            admin: get(Role::Admin, admin, 1)?.into_iter().next(),
        })
    }
}

fn bind(key: &'static str, addr: Option<SocketAddr>, count: usize) -> Result<Vec<Listener>, StartError> {
    addr.map_or(Ok(Vec::new()), |addr| listen::bind(addr, count).map_err(|error| StartError::new(key, bind_words(addr, &error))))
}

fn bind_words(addr: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one or grant it",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => "choose another address",
    };
    format!("cannot listen on {addr}: {error}; {hint}")
}

pub(super) fn addr_of(listener: Option<&Listener>) -> Option<SocketAddr> {
    listener.and_then(Listener::local_addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;

    fn sockets(names: &[&str]) -> (Activated, Vec<SocketAddr>) {
        let bound: Vec<_> = names.iter().map(|name| ((*name).to_owned(), TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let addrs = bound.iter().map(|(_, socket)| socket.local_addr().unwrap()).collect();
        (Activated(bound), addrs)
    }

    #[test]
    fn sockets_go_where_their_names_say_and_else_in_order() {
        let both = example(&[("server.admin_listen", "127.0.0.1:0")]).server;
        for (names, plain, admin) in [
            (&["gantry.socket"][..], Some(0), None),
            (&["", ""], Some(0), Some(1)),
            (&["admin", "http"], Some(1), Some(0)),
            (&["admin", "unknown"], Some(1), Some(0)),
            (&[], None, None),
        ] {
            let (activated, addrs) = sockets(names);
            let assigned = activated.assign(&both).unwrap().map(|socket| socket.map(|socket| socket.local_addr().unwrap()));
            assert_eq!(assigned, [plain.map(|at: usize| addrs[at]), None, admin.map(|at: usize| addrs[at])], "{names:?}");
        }
        for (names, key) in [(&["https"][..], "server.tls.listen"), (&["", "", ""], "server.listen"), (&["http", "plain"], "server.listen")]
        {
            let (activated, _) = sockets(names);
            assert_eq!(activated.assign(&both).unwrap_err().key, key, "{names:?}");
        }
    }

    #[test]
    fn one_socket_serves_all_workers_and_its_address_is_not_bound() {
        let mut server = example(&[]).server;
        server.workers = 3;
        let (activated, addrs) = sockets(&["http"]);
        let got = Sockets::new(&server, activated).unwrap();
        assert!(got.plain.len() == 3 && got.plain.iter().all(|socket| socket.local_addr() == Some(addrs[0])));
        assert!(got.tls.is_empty() && got.admin.is_none());
    }
}
