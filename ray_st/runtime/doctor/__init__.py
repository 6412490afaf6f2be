"""What is wrong with a cluster, and what to do about it: facts from every node, and checks that are functions of them."""
