//! The last words of a program that cannot open its window.

/// Says it on the terminal.
#[cfg(not(windows))]
pub fn say(text: &str) {
    eprintln!("toctoc-window: {text}");
}

/// Says it in a box: there is no console.
#[cfg(windows)]
#[allow(unsafe_code)]
pub fn say(text: &str) {
    use windows_sys::Win32::UI::WindowsAndMessaging::{MB_ICONERROR, MB_OK, MessageBoxW};

    let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
    let title: Vec<u16> = "toctoc\0".encode_utf16().collect();
    let owner = std::ptr::null_mut();
    // SAFETY: both texts end with a zero and live through the call. There is no owner.
    unsafe { MessageBoxW(owner, text.as_ptr(), title.as_ptr(), MB_OK | MB_ICONERROR) };
}
