//! A registry that says what a test has it say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use openssl::ssl::SslAcceptor;

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Such as `GET /schemas/ids/1`.
    pub what: String,
    pub authorization: Option<String>,
    pub body: String,
}

/// An answer's status and body.
pub type Answer = (u16, String);

pub struct Stub {
    pub port: u16,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(None, answer)
    }

    /// With TLS.
    pub fn secure(acceptor: SslAcceptor, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(Some(acceptor), answer)
    }

    fn listen(
        acceptor: Option<SslAcceptor>,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer, acceptor) = (Arc::clone(&log), Arc::clone(&answer), acceptor.clone());
                std::thread::spawn(move || match acceptor {
                    None => serve(stream, &log, &*answer),
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream) {
                            serve(stream, &log, &*answer);
                        }
                    }
                });
            }
        });
        Self { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn count(&self) -> usize {
        self.asked.lock().expect("the log").len()
    }
}

fn serve(stream: impl Read + Write, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(0) => return,
        Ok(_) => {}
        // As servers do where somebody speaks TLS to them.
        Err(_) => {
            let _ = stream.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
            return;
        }
    }
    let what = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let (mut authorization, mut length) = (None, 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 || line.trim_end().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').expect("a header");
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    let asked = Asked { what, authorization, body: String::from_utf8(body).expect("text") };
    log.lock().expect("the log").push(asked.clone());
    let (status, body) = answer(&asked);
    let more = if (300..400).contains(&status) { "location: http://elsewhere/?secret=1\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {status} X\r\n{more}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = stream.get_mut();
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}
