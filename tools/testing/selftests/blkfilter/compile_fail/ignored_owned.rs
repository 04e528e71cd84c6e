// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a bio has to be finished
fn pop(bios: &mut BioList<Good>) {
    bios.pop().unwrap(); //~ bad
    bios.pop().unwrap().resubmit(); //~ good
}
