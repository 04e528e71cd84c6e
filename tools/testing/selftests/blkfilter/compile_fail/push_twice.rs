// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio is on one list
fn keep(a: &mut BioList<Good>, b: &mut BioList<Good>, bio: Owned) {
    let _ = a.push(bio);
    let _ = b.push(bio); //~ bad
}
