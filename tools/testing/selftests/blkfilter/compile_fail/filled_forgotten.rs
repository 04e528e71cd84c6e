// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a read that is being answered ends
fn answer(bio: Owned) {
    if let Ok(filled) = bio.fill() {
        filled; //~ bad
        filled.end(BlkStatus::OK); //~ good
    }
}
