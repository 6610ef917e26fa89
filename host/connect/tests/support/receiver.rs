//! A server that takes POSTs, and answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the next request is answered; 200 when all are used up.
#[derive(Debug, Clone)]
pub enum Reply {
    Ok,
    /// 200 after a moment.
    Slow,
    Status(u16),
    /// A status with `Retry-After`.
    Later(u16, &'static str),
    /// Nothing, for ever.
    Hang,
    /// Nothing: the connection is closed.
    Cut,
}

/// What was posted, and how it was answered.
#[derive(Debug, Clone)]
pub struct Posted {
    pub uri: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub status: u16,
}

impl Posted {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The numbers that are ids in the body, in order.
    pub fn ids(&self) -> Vec<u64> {
        self.body
            .split("\"id\":")
            .skip(1)
            .map(|t| t.split('}').next().expect("a part").parse().expect("a number"))
            .collect()
    }
}

#[derive(Default)]
struct Told {
    replies: Mutex<VecDeque<Reply>>,
    refuse: Mutex<Option<(String, u16)>>,
    posted: Mutex<Vec<Posted>>,
    connections: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

/// The server; it ends when it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    told: Arc<Told>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub async fn start(replies: Vec<Reply>) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), replies).await
    }

    pub async fn start_at(address: SocketAddr, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let told = Arc::new(Told { replies: Mutex::new(replies.into()), ..Told::default() });
        let shared = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let told = Arc::clone(&shared);
                connections.spawn(async move {
                    let mut stream = stream;
                    while serve(&mut stream, &told).await.is_some() {}
                });
            }
        });
        Self { address, told, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Refuses every request that has this text.
    pub fn refuse(&self, text: &str, status: u16) {
        *self.told.refuse.lock().expect("no panic") = Some((text.to_owned(), status));
    }

    /// What was posted since this was asked last.
    pub fn take(&self) -> Vec<Posted> {
        std::mem::take(&mut self.told.posted.lock().expect("no panic"))
    }

    pub fn connections(&self) -> usize {
        self.told.connections.load(Ordering::SeqCst)
    }

    pub fn at_once_max(&self) -> usize {
        self.told.at_once_max.load(Ordering::SeqCst)
    }
}

/// Serves one request of a connection; none at its end.
async fn serve(stream: &mut TcpStream, told: &Told) -> Option<()> {
    let mut posted = read(stream).await?;
    let now = told.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    told.at_once_max.fetch_max(now, Ordering::SeqCst);
    let refusal =
        told.refuse.lock().expect("no panic").clone().filter(|(text, _)| posted.body.contains(text));
    let reply = match refusal {
        Some((_, status)) => Reply::Status(status),
        None => told.replies.lock().expect("no panic").pop_front().unwrap_or(Reply::Ok),
    };
    let (status, more) = match reply {
        Reply::Ok => (200, String::new()),
        Reply::Slow => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (200, String::new())
        }
        Reply::Status(status @ 300..400) => {
            (status, "Location: http://elsewhere/there?key=hush\r\n".to_owned())
        }
        Reply::Status(status) => (status, String::new()),
        Reply::Later(status, after) => (status, format!("Retry-After: {after}\r\n")),
        Reply::Hang => (0, String::new()),
        Reply::Cut => return None,
    };
    told.at_once.fetch_sub(1, Ordering::SeqCst);
    if status == 0 {
        return std::future::pending().await;
    }
    posted.status = status;
    told.posted.lock().expect("no panic").push(posted);
    let body = if status == 304 { String::new() } else { format!("no such thing {}", "y".repeat(1000)) };
    let answer = format!("HTTP/1.1 {status} As told\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.ok()
}

/// Reads a request.
async fn read(stream: &mut TcpStream) -> Option<Posted> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).expect("UTF-8");
    let mut lines = head.split("\r\n");
    let uri = lines.next()?.split(' ').nth(1)?.to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let headers: Vec<(String, String)> = lines.map(header).collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").expect("a length");
    let length: usize = length.1.parse().expect("a number");
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Posted { uri, headers, body: String::from_utf8(body).expect("UTF-8"), status: 0 })
}
