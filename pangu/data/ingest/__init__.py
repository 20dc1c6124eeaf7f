"""From a card's table of URLs to raw shards in which every listed row is accounted for."""
