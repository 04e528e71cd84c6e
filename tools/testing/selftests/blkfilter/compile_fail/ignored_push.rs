// SPDX-License-Identifier: GPL-2.0
//~ unused_must_use: a bio that does not fit into a list is not lost
fn keep(list: &mut BioList<Good>, bio: Owned) {
    list.push(bio); //~ bad
    let _ = list.push(bio); //~ good
}
