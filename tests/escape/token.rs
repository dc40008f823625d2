//! What marks the octets of one attempt, so that the judge knows them again in any encoding.

use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// Eight octets that nothing else sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub [u8; 8]);

impl Token {
    /// The token of an attempt in one of its runs.
    pub fn of(name: &str, run: &str) -> Self {
        static SEED: OnceLock<Vec<u8>> = OnceLock::new();
        let seed = SEED.get_or_init(|| std::fs::read("/proc/sys/kernel/random/uuid").unwrap());
        let mut hash = Sha256::new();
        for part in [seed, name.as_bytes(), run.as_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        let digest = hash.finalize();
        Self(digest[..8].try_into().unwrap())
    }

    pub fn from_text(text: &str) -> Option<Self> {
        let number = u64::from_str_radix(text, 16).ok()?;
        Some(Self(number.to_be_bytes()))
    }

    /// Sixteen hexadecimal digits: also a valid DNS label.
    pub fn text(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.0))
    }

    /// Every form that the judge looks for: as it is and as text, each also backwards, in the
    /// other case, and in base64 at each of the three alignments.
    pub fn forms(&self) -> Vec<Vec<u8>> {
        let text = self.text().into_bytes();
        let upper = text.to_ascii_uppercase();
        let backwards = |octets: &[u8]| octets.iter().rev().copied().collect::<Vec<u8>>();
        let mut forms = vec![
            self.0.to_vec(),
            backwards(&self.0),
            backwards(&text),
            backwards(&upper),
        ];
        for octets in [&self.0[..], &text, &upper] {
            forms.extend((0..3).map(|shift| base64(octets, shift)));
        }
        let digits: String = text.iter().map(|octet| format!("{octet:02x}")).collect();
        forms.extend([text, upper, digits.into_bytes()]);
        forms
    }

    /// Whether one of the forms is in there.
    pub fn is_in(forms: &[Vec<u8>], octets: &[u8]) -> bool {
        forms
            .iter()
            .any(|form| octets.windows(form.len()).any(|window| window == form))
    }
}

/// The characters that these octets give wherever they stand, at this alignment: the outermost,
/// which depend on what is around, are left out.
fn base64(octets: &[u8], shift: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut shifted = vec![0; shift];
    shifted.extend(octets);
    let bit = |index: usize| shifted.get(index / 8).map(|o| o >> (7 - index % 8) & 1);
    (0..)
        .map(|digit| digit * 6)
        .take_while(|start| start + 6 <= shifted.len() * 8)
        .skip_while(|start| *start < shift * 8)
        .map(|start| {
            let value = (start..start + 6).fold(0, |value, index| value << 1 | bit(index).unwrap());
            DIGITS[usize::from(value)]
        })
        .collect()
}
