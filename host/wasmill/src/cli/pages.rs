//! The pages of a running pipeline, as the tools ask for them: one request a connection, in HTTP/1.0, whose
//! answers end with the connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::cli::exit::{Exit, Stop};

/// How long the pages may be silent: sums are made over the whole state before anything is answered.
const PATIENCE: Duration = Duration::from_secs(600);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The greatest page but exports.
const PAGE_BYTES_MAX: u64 = 1 << 30;
/// The longest line of an answer's head, and the most of them.
const HEAD_LINE_BYTES_MAX: u64 = 8 << 10;
const HEAD_LINES_MAX: usize = 100;

/// The pages of one pipeline.
pub(super) struct RunningPages {
    pub address: SocketAddr,
    pub pipeline: String,
    /// Under which name: `state`, `plugins`.
    pub under: &'static str,
    /// What is told where they can't be asked: what stands before, and behind, that.
    pub failing: (String, &'static str),
}

impl RunningPages {
    /// Gets a page.
    pub fn get(&self, page: &str, query: &[(&str, String)]) -> Result<Vec<u8>, Stop> {
        let mut body = Vec::new();
        let mut answer = self.ask(page, query)?.take(PAGE_BYTES_MAX);
        answer.read_to_end(&mut body).map_err(|e| self.failed(&e))?;
        Ok(body)
    }

    /// Orders something, and answers what is said to it.
    pub fn post(&self, page: &str, query: &[(&str, String)]) -> Result<String, Stop> {
        let (status, body) = self.request("POST", page, query).map_err(|e| self.failed(&e))?;
        let mut text = String::new();
        body.take(HEAD_LINE_BYTES_MAX).read_to_string(&mut text).map_err(|e| self.failed(&e))?;
        match status {
            200 => Ok(text),
            _ => Err(Stop::error(Exit::Failed, text.trim())),
        }
    }

    /// Copies a page that may be long.
    pub fn copy(&self, page: &str, to: &mut dyn Write) -> Result<(), Stop> {
        let mut answer = self.ask(page, &[])?;
        let mut last = Vec::new();
        let mut line = Vec::new();
        while answer.read_until(b'\n', &mut line).map_err(|e| self.failed(&e))? > 0 {
            to.write_all(&line)
                .map_err(|e| Stop::error(Exit::Failed, format!("can't write the export: {e}")))?;
            std::mem::swap(&mut last, &mut line);
            line.clear();
        }
        to.flush().map_err(|e| Stop::error(Exit::Failed, format!("can't write the export: {e}")))?;
        if last.starts_with(b"{\"entries\":") {
            return Ok(());
        }
        Err(Stop::error(
            Exit::Outside,
            format!(
                "the export was cut off: the pipeline at {} has ended meanwhile, or its log tells why",
                self.address
            ),
        ))
    }

    fn ask(&self, page: &str, query: &[(&str, String)]) -> Result<BufReader<TcpStream>, Stop> {
        let (status, mut body) = self.request("GET", page, query).map_err(|e| self.failed(&e))?;
        if status == 200 {
            return Ok(body);
        }
        let mut text = String::new();
        let _ = body.by_ref().take(HEAD_LINE_BYTES_MAX).read_to_string(&mut text);
        let text = text.trim();
        Err(Stop::error(
            Exit::Outside,
            if text.is_empty() {
                format!("the HTTP pages at {} answer {status}", self.address)
            } else {
                text.to_owned()
            },
        ))
    }

    fn request(
        &self,
        method: &str,
        page: &str,
        query: &[(&str, String)],
    ) -> io::Result<(u16, BufReader<TcpStream>)> {
        let mut encoded = form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(query);
        let stream = TcpStream::connect_timeout(&reachable(self.address), CONNECT_PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let page = if page.is_empty() { String::new() } else { format!("/{page}") };
        let path = format!("/{}/{}{page}?{}", self.under, self.pipeline, encoded.finish());
        // The last header says that it is no browser that asks.
        write!(&stream, "{method} {path} HTTP/1.0\r\nhost: {}\r\nx-wasmill: 1\r\n\r\n", self.address)?;
        let mut answer = BufReader::new(stream);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            answer.by_ref().take(HEAD_LINE_BYTES_MAX).read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let no_http = || io::Error::new(io::ErrorKind::InvalidData, "it is no HTTP");
        let status = line()?.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(no_http)?;
        for _ in 0..HEAD_LINES_MAX {
            if line()?.is_empty() {
                return Ok((status, answer));
            }
        }
        Err(no_http())
    }

    fn failed(&self, error: &io::Error) -> Stop {
        Stop::error(
            Exit::Outside,
            format!(
                "{}its HTTP pages at {} can't be asked: {error}. {}",
                self.failing.0, self.address, self.failing.1
            ),
        )
    }
}

/// Where somebody is reached who listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
