//! The token budget of a batch: limited by a share of the free memory and by the number of tokens that keeps all cores busy.

use crate::model::Model;

/// The largest budget. Larger batches are not faster, and progress comes in larger jumps.
const MOST: usize = 8192;
/// The divisor of the free memory. The rest is for the page cache, which holds the weights, and for other processes.
const SHARE: u64 = 4;
/// The free memory to assume if the system does not report it.
const FREE: u64 = 4 << 30;

/// The budget for a model. A question that needs more runs alone.
///
/// A token needs memory for its keys and values in f32, layers · 2 · kv_heads · head_dim · 4 bytes, and in its pass for its
/// activations: about eight vectors of the hidden size, and two of the feed-forward layer, estimated as 4·hidden each.
pub(crate) fn budget(model: &Model) -> usize {
    let state = model.state_values() * 4;
    let activations = (8 + 2 * 4) * model.hidden * 4;
    let free =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text)).unwrap_or(FREE);
    let tokens = usize::try_from(free / SHARE).unwrap_or(usize::MAX) / (state + activations).max(1);
    tokens.clamp(1, MOST)
}

/// Reads `MemAvailable` of /proc/meminfo, in bytes.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_parsed() {
        let text = "MemTotal:       24625420 kB\nMemFree:         500000 kB\nMemAvailable:   19437036 kB\n";
        assert_eq!(available(text), Some(19_437_036 * 1024));
        assert_eq!(available("MemFree: 1 kB"), None);
        assert_eq!(available("MemAvailable: lots"), None);
    }
}
