//! What a panic said, told to the host before the trap.

/// Tells the host every panic's text and place, from the first call of an instance on.
pub(crate) fn tell_host() {
    #[cfg(target_arch = "wasm32")]
    {
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| {
            std::panic::set_hook(Box::new(|info| {
                let text = info.payload_as_str().unwrap_or("a value that is no text");
                let line = match info.location() {
                    Some(at) => format!("panic: {text} at {}:{}", at.file(), at.line()),
                    None => format!("panic: {text}"),
                };
                crate::host::log_write(crate::Level::Error, &line);
            }));
        });
    }
}
