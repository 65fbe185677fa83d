//! A QR code for a terminal: the line of an invitation, a door for a phone.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

/// The text as a QR code of half blocks, light on dark as most terminals are. `None` if it is too
/// long.
pub(super) fn qr_code(text: &str) -> Option<Zeroizing<String>> {
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L).ok()?;
    let mut picture = code.render::<Dense1x2>();
    picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
    Some(Zeroizing::new(picture.build()))
}

/// What a reader of QR codes finds in a picture of half blocks, seen on a dark terminal.
#[cfg(test)]
pub(super) fn read(picture: &str) -> String {
    const SCALE: usize = 4;
    let mut rows: Vec<Vec<bool>> = Vec::new();
    for line in picture.lines() {
        rows.push(line.chars().map(|half| matches!(half, '█' | '▀')).collect());
        rows.push(line.chars().map(|half| matches!(half, '█' | '▄')).collect());
    }
    let width = rows[0].len();
    let light = |x: usize, y: usize| if rows[y / SCALE][x / SCALE] { 255 } else { 0 };
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(width * SCALE, rows.len() * SCALE, light);
    let grids = image.detect_grids();
    let [grid] = grids.as_slice() else { panic!("{} codes in\n{picture}", grids.len()) };
    grid.decode().expect("readable").1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_the_text_and_what_is_too_long_is_no_code() {
        for length in [1, 60, 700] {
            let text = "[\"x\"]".repeat(length / 5 + 1);
            assert_eq!(read(&qr_code(&text).unwrap()), text);
        }
        assert!(qr_code(&"x".repeat(2953)).is_some());
        assert!(qr_code(&"x".repeat(2954)).is_none());
    }
}
