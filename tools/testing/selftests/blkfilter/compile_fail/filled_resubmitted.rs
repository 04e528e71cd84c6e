// SPDX-License-Identifier: GPL-2.0
//~ E0599: what was filled in does not go to the device
fn answer(bio: Owned) {
    if let Ok(filled) = bio.fill() {
        filled.resubmit(); //~ bad
        filled.end(BlkStatus::OK); //~ good
    }
}
