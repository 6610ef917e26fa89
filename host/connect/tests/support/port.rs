// By `include!`, for modules that several crates' tests have.

/// A port that nobody listens on, below those that the system gives to clients: one of them might get it before it is
/// listened on, even who only looks whether somebody does.
fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    const PORTS: std::ops::Range<u16> = 2_000..11_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Each process begins elsewhere, and in it each module: what starts slowly must not lose its port to another.
    let begin = std::process::id() as usize * 61 + module_path!().len() * 397;
    let mut ports = PORTS.map(|_| {
        let nth = begin + usize::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (nth % PORTS.len()) as u16
    });
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}
