// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio that went on is not ours
fn finish(bio: Owned) -> u64 {
    let sector = bio.sector(); //~ good
    bio.resubmit();
    let sector = bio.sector(); //~ bad
    sector
}
